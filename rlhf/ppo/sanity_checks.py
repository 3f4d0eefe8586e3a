"""What must hold before the first step of PPO, and a refusal to start when it does not."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.config.schema import PPOConfig
from rlhf.data.microbatching import map_microbatches
from rlhf.data.tokenization import with_images
from rlhf.errors import UsageError
from rlhf.models.policy import Policy
from rlhf.rewards.base import Scorer
from rlhf.types import Rollout

# Float32 rounding of a forward in another batch shape; bfloat16 keeps 8 bits of each term.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.2, torch.float16: 0.05}


@dataclass(frozen=True)
class SanityCheck:
    """One measured property: it holds when `value` is at most `limit`."""

    name: str
    value: float
    limit: float
    meaning: str

    @property
    def holds(self) -> bool:
        return self.value <= self.limit


@torch.no_grad()
def measure_sanity_checks(
    policy: Policy, reward: Scorer, rollout: Rollout, config: PPOConfig
) -> list[SanityCheck]:
    """Every invariant, measured on (the first rows of) a rollout whose policy has not moved."""
    few = torch.arange(min(8, len(rollout.responses)))
    return [
        *_probabilities(policy, rollout, few, config),
        *_images(policy, reward, rollout, few, config.microbatch_tokens),
        _gradients(policy),
    ]


def assert_sane(invariants: list[SanityCheck]) -> None:
    """Refuse to start.

    Raises:
        UsageError: names the first invariant that does not hold.
    """
    for broken in invariants:
        if not broken.holds:
            raise UsageError(
                f"{broken.name} is {broken.value:.3g}, at most {broken.limit:.3g} is sound",
                "ppo.sanity_checks",
                f"{broken.meaning}; ppo.sanity_checks=false starts anyway",
            )


def _probabilities(
    policy: Policy, rollout: Rollout, few: Tensor, config: PPOConfig
) -> Iterator[SanityCheck]:
    limit = TOLERANCE[policy.llava.precision]
    prompts, responses = rollout.prompts.select(few), rollout.responses.select(few)
    old = rollout.old_logprobs[rollout.spans.token_indices(few)]
    ref = rollout.ref_logprobs[rollout.spans.token_indices(few)]
    again = map_microbatches(policy.evaluate, prompts, responses, config.microbatch_tokens).logprobs
    alone = map_microbatches(policy.evaluate, prompts, responses, 1).logprobs
    yield SanityCheck(
        "largest |ratio - 1| before any step",
        _largest((again - old).exp() - 1),
        limit if config.recompute_logprobs else max(limit, 1e-4),
        "the same weights must give the same probabilities: look for dropout or another dtype",
    )
    yield SanityCheck(
        "largest |log-probability against the reference| before any step",
        _largest(again - ref),
        limit,
        "policy and reference must be one model at the start",
    )
    yield SanityCheck(
        "largest change of a log-probability by padding",
        _largest(again - alone),
        limit,
        "a row must not depend on its batch mates",
    )


def _images(
    policy: Policy, reward: Scorer, rollout: Rollout, few: Tensor, max_tokens: int
) -> Iterator[SanityCheck]:
    prompts, responses = rollout.prompts.select(few), rollout.responses.select(few)
    vision, builder, first = policy.llava.vision, policy.llava.builder, prompts.images[0]
    kept, own = vision.features(first[0]).tiles, vision.encode(first[0]).tiles
    yield SanityCheck(
        "image placeholders minus image features",
        abs(sum(builder.image_tokens(first)) - len(vision.embeddings([first])[0])),
        0,
        "the processor and the vision tower disagree about tokens per image",
    )
    yield SanityCheck(
        "largest change of an image feature by the cache",
        _largest(own - kept),
        0,
        "cached features must be the tower's own",
    )
    others = with_images(prompts, prompts.mismatched_images(), builder)
    # A person's own scorer may well judge the words alone.
    if others.images != prompts.images and hasattr(reward, "head"):
        scores, other = (
            reward.scores(batch, responses, max_tokens=max_tokens) for batch in (prompts, others)
        )
        yield SanityCheck(
            "rewards that another image leaves unchanged (1: all of them)",
            float(torch.equal(scores, other)),
            0,
            "the reward model does not look at the image",
        )


def _gradients(policy: Policy) -> SanityCheck:
    strays = [name for name, value in policy.frozen_parameters() if value.requires_grad]
    return SanityCheck(
        "frozen parameters that would receive a gradient",
        len(strays),
        0,
        f"only policy and critic may move, not {', '.join(strays[:3])}",
    )


def _largest(values: Tensor) -> float:
    return float(values.abs().max())
