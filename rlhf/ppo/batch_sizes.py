"""Batch sizes of a PPO run after out-of-memory errors."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from rlhf.config.schema import PPOConfig, SamplingConfig
from rlhf.models.llava import Llava
from rlhf.models.policy import Policy
from rlhf.rewards.base import Scorer
from rlhf.rewards.combined import reward_parts


def split_batches(
    config: PPOConfig, sampling: SamplingConfig, split: Callable[[int], int]
) -> tuple[PPOConfig, SamplingConfig]:
    """Return the options with all that limits memory divided.

    Args:
        config: the PPO options.
        sampling: how responses are sampled.
        split: divides a batch size, `OOMRetry.split`.
    """
    tokens, responses = split(config.microbatch_tokens), split(sampling.batch_size)
    return replace(config, microbatch_tokens=tokens), replace(sampling, batch_size=responses)


def limit_prefill(policy: Policy, scorers: Sequence[Scorer], max_prefill_tokens: int) -> None:
    """Set the most prompt tokens of one prefill pass, in every LLaVA of a run.

    Args:
        policy: with its reference and critic.
        scorers: may run a LLaVA, or have one that writes captions.
        max_prefill_tokens: the tokens.
    """
    for llava in llavas_of(policy, scorers):
        llava.max_prefill_tokens = max_prefill_tokens


def llavas_of(policy: Policy, scorers: Sequence[Scorer]) -> list[Llava]:
    """List every LLaVA of a run, some of which may be the same.

    Args:
        policy: with its reference and critic.
        scorers: may run a LLaVA, or have one that writes captions.
    """
    scoring = [
        getattr(model, "llava", None)
        for part in reward_parts(*scorers)
        for model in (part, getattr(part, "captioner", None))
    ]
    found = (policy.llava, policy.reference, policy.critic.llava, *scoring)
    return [llava for llava in found if llava is not None]
