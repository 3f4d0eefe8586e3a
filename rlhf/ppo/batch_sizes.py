"""Batch sizes of a PPO run after out-of-memory errors."""

from collections.abc import Callable
from dataclasses import replace

from rlhf.config.schema import Config
from rlhf.models.policy import Policy
from rlhf.rewards.base import Scorer


def split_batches(config: Config, split: Callable[[int], int]) -> Config:
    """Return the configuration with all that limits memory divided.

    Args:
        config: the options of the run.
        split: divides a batch size, `OOMRetry.split`.
    """
    model, sampling, ppo = config.model, config.sampling, config.ppo
    return replace(
        config,
        model=replace(model, max_prefill_tokens=split(model.max_prefill_tokens)),
        sampling=replace(sampling, batch_size=split(sampling.batch_size)),
        ppo=replace(ppo, microbatch_tokens=split(ppo.microbatch_tokens)),
    )


def limit_prefill(policy: Policy, reward: Scorer, max_prefill_tokens: int) -> None:
    """Set the most prompt tokens of one prefill pass, in every LLaVA of a run.

    Args:
        policy: with its reference and critic.
        reward: may run a LLaVA, or have one that writes captions.
        max_prefill_tokens: the tokens.
    """
    scoring = (
        getattr(part, "llava", None) for part in (reward, getattr(reward, "captioner", None))
    )
    for llava in (policy.llava, policy.reference, policy.critic.llava, *scoring):
        if llava is not None:
            llava.max_prefill_tokens = max_prefill_tokens
