"""Losses: sums over tokens divided by the token count of the whole optimizer step.

Micro-batches of a step, each given the step's `token_count` (None takes the tokens at hand), add up
to its loss. The other fields are detached sums over tokens: add them too, divide by the count last.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf.functional.checks import check_between, check_positive, check_same_shape
from rlhf.functional.kl import kl_estimate
from rlhf.kernels.dtypes import at_least_float32


class PolicyLoss(NamedTuple):
    """All 0-d."""

    loss: Tensor
    clipped_sum: Tensor  # tokens at which a clip holds the gradient back
    approx_kl_sum: Tensor  # k2 of new against old policy, nats
    ratio_sum: Tensor


class ValueLoss(NamedTuple):
    """All 0-d."""

    loss: Tensor
    clipped_sum: Tensor  # tokens at which the clipped error is the larger


def _token_mean(losses: Tensor, token_count: int | None) -> Tensor:
    count = losses.numel() if token_count is None else token_count
    check_positive("token_count", count)
    return losses.sum() / count


def _ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """exp(logprob - old_logprob), at most e⁴⁰: its square is finite, and a clip's gradient 0."""
    return (at_least_float32(logprobs) - at_least_float32(old_logprobs)).clamp(max=40).exp()


def _clip_bounds(clip_range: float, clip_range_high: float | None) -> tuple[float, float]:
    """Between which the ratio stays."""
    high = clip_range if clip_range_high is None else clip_range_high
    check_between("clip_range", clip_range, 0, 1)
    check_between("clip_range_high", high, 0)
    return 1 - clip_range, 1 + high


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
    token_count: int | None = None,
) -> PolicyLoss:
    """PPO's clipped surrogate.

        ρ = exp(logprob - old_logprob)    L = Σ max(-ρA, -clip(ρ, 1-ε, 1+ε_high)·A) / token_count

    Args: logprobs, old_logprobs, advantages [N]; clip_range ε in [0, 1]; clip_range_high None is ε;
        dual_clip c, at least 1, bounds the loss by c·|A| where A < 0.
    Source: Schulman et al. 2017, arXiv:1707.06347; dual clip: Ye et al. 2020, arXiv:1912.09729.
    """
    check_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    bounds = _clip_bounds(clip_range, clip_range_high)
    ratio = _ratio(logprobs, old_logprobs)
    plain = -ratio * advantages
    losses = torch.maximum(plain, -ratio.clamp(*bounds) * advantages)
    if dual_clip is not None:
        check_between("dual_clip", dual_clip, 1)
        bound = -dual_clip * advantages
        losses = torch.where((advantages < 0) & (losses > bound), bound, losses)
    ratio, kl = ratio.detach(), kl_estimate(logprobs, old_logprobs, "k2").detach()
    sums = (losses != plain).sum(), kl.sum(), ratio.sum()
    return PolicyLoss(_token_mean(losses, token_count), *sums)


def clipped_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    *,
    clip_range_value: float | None = None,
    token_count: int | None = None,
) -> ValueLoss:
    """Half the squared error of the critic, with PPO2's clip around the old values.

        V_clip = V_old + clip(V - V_old, ±ε)    L = Σ ½·max((V-R)², (V_clip-R)²) / token_count

    Args: values, old_values, returns [N], reward-model units, as ε, clip_range_value; None is ∞.
    """
    check_same_shape(values=values, old_values=old_values, returns=returns)
    values = at_least_float32(values)
    plain = errors = (values - returns).square()
    if clip_range_value is not None:
        check_positive("clip_range_value", clip_range_value)
        near = old_values + (values - old_values).clamp(-clip_range_value, clip_range_value)
        errors = torch.maximum(plain, (near - returns).square())
    return ValueLoss(_token_mean(errors / 2, token_count), (errors > plain).sum())


def kl_penalty_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    old_logprobs: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    token_count: int | None = None,
) -> Tensor:
    """0-d, k2 in the loss: on policy, its gradient is that of KL(policy ‖ reference).

        ρ = exp(logprob - old_logprob)    L = Σ sg(clip(ρ, 1-ε, 1+ε_high))·½(logprob - ref)² / count

    The detached ratio sg(·) keeps the gradient that of the policy after it has moved.

    Args: logprobs, ref_logprobs, old_logprobs [N]; ε, clip_range; clip_range_high None is ε.
    Source: Tang and Munos 2025, arXiv:2506.09477.
    """
    check_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs, old_logprobs=old_logprobs)
    ratio = _ratio(logprobs, old_logprobs).detach()
    near = ratio.clamp(*_clip_bounds(clip_range, clip_range_high))
    return _token_mean(near * kl_estimate(logprobs, ref_logprobs, "k2"), token_count)


def preference_loss(
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    labels: Tensor | None = None,
    *,
    margin: Tensor | float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """0-d, the mean Bradley-Terry loss of pairs.

        d = chosen - rejected - (2y - 1)·margin
        L = -y′·log σ(d) - (1 - y′)·log σ(-d)        y′ = (1 - ε)·y + ε·(1 - y)

    Args:
        chosen_scores, rejected_scores: [B] raw scores.
        labels: y [B], how surely the chosen one is preferred: 1, or ½ for a tie. None: all 1.
        margin: [B] or a number, score units by which a preferred response should lead.
        label_smoothing: ε in [0, ½], believed share of wrong labels.

    Source: Bradley and Terry 1952;
    margin: Touvron et al. 2023, arXiv:2307.09288.
    """
    y = torch.ones_like(chosen_scores) if labels is None else labels
    check_same_shape(chosen_scores=chosen_scores, rejected_scores=rejected_scores, labels=y)
    check_between("label_smoothing", label_smoothing, 0, 0.5)
    check_positive("pairs", len(chosen_scores))
    if isinstance(margin, Tensor) and margin.dim():
        check_same_shape(chosen_scores=chosen_scores, margin=margin)
    y = at_least_float32(y)
    apart = (
        at_least_float32(chosen_scores) - at_least_float32(rejected_scores) - (2 * y - 1) * margin
    )
    smoothed = (1 - label_smoothing) * y + label_smoothing * (1 - y)
    return -(smoothed * logsigmoid(apart) + (1 - smoothed) * logsigmoid(-apart)).mean()


def center_rewards_loss(chosen_scores: Tensor, rejected_scores: Tensor) -> Tensor:
    """0-d, mean (chosen + rejected)²: keeps scores near 0, which the preference loss leaves free.

    Args: chosen_scores, rejected_scores [B] raw scores.
    Source: Eisenstein et al. 2023, arXiv:2312.09244.
    """
    check_same_shape(chosen_scores=chosen_scores, rejected_scores=rejected_scores)
    check_positive("pairs", len(chosen_scores))
    return (at_least_float32(chosen_scores) + at_least_float32(rejected_scores)).square().mean()
