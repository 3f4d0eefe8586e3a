"""Sanity checks before the first PPO step; training does not start if one fails."""

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
from rlhf.rewards.combined import reward_parts
from rlhf.tracking.activity import working
from rlhf.tracking.console import say
from rlhf.types import Rollout

MAX_ROWS = 8  # responses of a rollout that are checked
# Rounding differences between forward passes of different batch shapes, nats.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.2, torch.float16: 0.05}

# Features may come from another CPU, which sums in another order. The towers have some 50 layers of
# rounding, each within eps of the dtype and at random: about 7 eps, and twice that for safety.
# Features of another image or tower differ by half their norm and more.
CACHE_TOLERANCE = 14  # eps of the dtype, relative to the norm of the features


@dataclass(frozen=True)
class SanityCheck:
    """A value measured before the first step, and its limit.

    Attributes:
        name: what was measured.
        value: the measured value.
        limit: largest allowed value.
        meaning: what a larger value means, and where to look.
    """

    name: str
    value: float
    limit: float
    meaning: str

    @property
    def holds(self) -> bool:
        """Whether the value is within its limit."""
        return self.value <= self.limit


@working("checks before the first step")
def run_sanity_checks(policy: Policy, reward: Scorer, rollout: Rollout, config: PPOConfig) -> None:
    """Measure and print every sanity check; raise an error if one fails.

    Args:
        policy: before its first optimizer step.
        reward: scored the rollout.
        rollout: sampled by this policy.
        config: PPO options.

    Raises:
        UsageError: names the first check that fails.
    """
    checks = measure_sanity_checks(policy, reward, rollout, config)
    for check in checks:
        say(f"{check.name}: {check.value:.2g} (at most {check.limit:.2g})")
    assert_sane(checks)


@torch.no_grad()
def measure_sanity_checks(
    policy: Policy, reward: Scorer, rollout: Rollout, config: PPOConfig
) -> list[SanityCheck]:
    """Measure every sanity check on the first rows of a rollout.

    Args:
        policy: before its first optimizer step.
        reward: scored the rollout.
        rollout: sampled by this policy.
        config: PPO options; reads microbatch_tokens, recompute_logprobs.
    """
    rows = torch.arange(min(MAX_ROWS, len(rollout.responses)))
    return [
        *_logprob_checks(policy, rollout, rows, config),
        *_image_checks(policy, reward, rollout, rows, config.microbatch_tokens),
        _frozen_check(policy),
    ]


def assert_sane(checks: list[SanityCheck]) -> None:
    """Raise an error if a sanity check fails.

    Raises:
        UsageError: names the first check that fails.
    """
    for check in checks:
        if not check.holds:
            raise UsageError(
                f"{check.name} is {check.value:.3g}, the limit is {check.limit:.3g}",
                "ppo.sanity_checks",
                f"{check.meaning}; ppo.sanity_checks=false starts anyway",
            )


def _logprob_checks(
    policy: Policy, rollout: Rollout, rows: Tensor, config: PPOConfig
) -> Iterator[SanityCheck]:
    limit = TOLERANCE[policy.llava.precision]
    prompts, responses = rollout.prompts.select(rows), rollout.responses.select(rows)
    old_logprobs = rollout.old_logprobs[rollout.spans.token_indices(rows)]
    ref_logprobs = rollout.ref_logprobs[rollout.spans.token_indices(rows)]
    batched, unbatched = (
        map_microbatches(policy.evaluate, prompts, responses, max_tokens).logprobs
        for max_tokens in (config.microbatch_tokens, 1)
    )
    yield SanityCheck(
        "largest |ratio - 1| before any step",
        _max_abs((batched - old_logprobs).exp() - 1),
        limit if config.recompute_logprobs else max(limit, 1e-4),
        "the same weights must give the same probabilities: look for dropout or another dtype",
    )
    yield SanityCheck(
        "largest |log-probability against the reference| before any step",
        _max_abs(batched - ref_logprobs),
        limit,
        "policy and reference must be one model at the start",
    )
    yield SanityCheck(
        "largest change of a log-probability by padding",
        _max_abs(batched - unbatched),
        limit,
        "a row must not depend on the other rows of its batch",
    )


def _image_checks(
    policy: Policy, reward: Scorer, rollout: Rollout, rows: Tensor, max_tokens: int
) -> Iterator[SanityCheck]:
    prompts, responses = rollout.prompts.select(rows), rollout.responses.select(rows)
    vision, builder, images = policy.llava.vision, policy.llava.builder, prompts.images[0]
    cached, encoded = vision.features(images[0]).tiles, vision.encode(images[0]).tiles
    yield SanityCheck(
        "image placeholders minus image features",
        abs(sum(builder.image_tokens(images)) - len(vision.embeddings([images])[0])),
        0,
        "the processor and the vision tower disagree about tokens per image",
    )
    yield SanityCheck(
        "relative change of the image features by the cache",
        float((encoded - cached).float().norm() / encoded.float().norm()),
        CACHE_TOLERANCE * torch.finfo(encoded.dtype).eps,
        "cached features must be those of the vision tower",
    )
    mismatched = with_images(prompts, prompts.mismatched_images(), builder)
    # An external scorer may rightly read the text alone.
    models = [part for part in reward_parts(reward) if hasattr(part, "head")]
    for model in models if mismatched.images != prompts.images else ():
        scores, mismatched_scores = (
            model.scores(batch, responses, max_tokens=max_tokens) for batch in (prompts, mismatched)
        )
        yield SanityCheck(
            "rewards that another image leaves unchanged (1: all of them)",
            float(torch.equal(scores, mismatched_scores)),
            0,
            "the reward model does not look at the image",
        )


def _frozen_check(policy: Policy) -> SanityCheck:
    trainable = [name for name, value in policy.frozen_parameters() if value.requires_grad]
    return SanityCheck(
        "frozen parameters that would receive a gradient",
        len(trainable),
        0,
        f"only policy and critic may move, not {', '.join(trainable[:3])}",
    )


def _max_abs(values: Tensor) -> float:
    return float(values.abs().max())
