"""Losses of PPO and of the reward model.

A PPO loss is a sum over tokens divided by `token_count`, the tokens of the whole optimizer step
(None: the tokens of the call), so that the losses of its micro-batches add up to the loss of the
step. The other fields are detached sums over tokens: add them up, then divide by the count. In the
same way a loss of the reward model divides by `pair_count`.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import huber_loss, logsigmoid

from rlhf.functional.checks import check_between, check_positive, check_same_shape
from rlhf.functional.kl import kl_estimate
from rlhf.kernels.dtypes import at_least_float32


class PolicyLoss(NamedTuple):
    """Result of `clipped_policy_loss`, 0-d tensors.

    Attributes:
        loss: differentiable.
        clipped_sum: number of tokens whose loss is clipped, so that their gradient is 0.
        approx_kl_sum: sum of the k2 estimates of KL(old policy ‖ new policy), nats.
        ratio_sum: sum of the probability ratios.
    """

    loss: Tensor
    clipped_sum: Tensor
    approx_kl_sum: Tensor
    ratio_sum: Tensor


class ValueLoss(NamedTuple):
    """Result of `clipped_value_loss`, 0-d tensors.

    Attributes:
        loss: differentiable.
        clipped_sum: number of tokens whose clipped error is larger than the unclipped one.
    """

    loss: Tensor
    clipped_sum: Tensor


def _mean(losses: Tensor, count: int | None, name: str = "token_count") -> Tensor:
    """Return the sum of losses, divided by a count; None: by their number."""
    count = losses.numel() if count is None else count
    check_positive(name, count)
    return losses.sum() / count


def _ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """exp(logprob - old_logprob), at most e⁴⁰: an infinite ratio would make clipped grads NaN."""
    return (at_least_float32(logprobs) - at_least_float32(old_logprobs)).clamp(max=40).exp()


def _clip_bounds(clip_range: float, clip_range_high: float | None) -> tuple[float, float]:
    """Smallest and largest ratio that is not clipped."""
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
    """Compute PPO's clipped surrogate loss.

        ρ = exp(logprob - old_logprob)    L = Σ max(-ρA, -clip(ρ, 1-ε, 1+ε_high)·A) / token_count

    Args:
        logprobs: [N], nats, of the policy that is updated; differentiable.
        old_logprobs: [N], nats, of the policy that sampled.
        advantages: A [N].
        clip_range: ε in [0, 1].
        clip_range_high: ε_high, at least 0; None: ε.
        dual_clip: c, at least 1, bounds the loss by c·|A| where A < 0; None: no bound.
        token_count: tokens of the optimizer step; None: N.

    Returns:
        Loss and statistics, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes disagree, or an option is out of range.

    Source: Schulman et al. 2017, arXiv:1707.06347; dual clip: Ye et al. 2020, arXiv:1912.09729.
    """
    check_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    bounds = _clip_bounds(clip_range, clip_range_high)
    ratio = _ratio(logprobs, old_logprobs)
    unclipped = -ratio * advantages
    losses = torch.maximum(unclipped, -ratio.clamp(*bounds) * advantages)
    if dual_clip is not None:
        check_between("dual_clip", dual_clip, 1)
        bound = -dual_clip * advantages
        losses = torch.where((advantages < 0) & (losses > bound), bound, losses)
    ratio, kl = ratio.detach(), kl_estimate(logprobs, old_logprobs, "k2").detach()
    sums = (losses != unclipped).sum(), kl.sum(), ratio.sum()
    return PolicyLoss(_mean(losses, token_count), *sums)


def clipped_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    *,
    clip_range_value: float | None = None,
    huber_delta: float | None = None,
    token_count: int | None = None,
) -> ValueLoss:
    """Compute half the squared error of the critic, with PPO2's clip around the old values.

        V_clip = V_old + clip(V - V_old, ±ε)    L = Σ ½·max((V-R)², (V_clip-R)²) / token_count

    With δ an error e beyond ±δ counts δ·(|e| - δ/2) in place of ½·e².

    Args:
        values: V [N], reward units; differentiable.
        old_values: V_old [N], reward units, of the critic before the update.
        returns: R [N], reward units.
        clip_range_value: ε above 0, reward units; None: values are not clipped.
        huber_delta: δ above 0, reward units; None: every error is squared.
        token_count: tokens of the optimizer step; None: N.

    Returns:
        Loss and statistics, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes disagree, or an option is out of range.

    Source: OpenAI Baselines, PPO2 (2017); described in Engstrom et al. 2020, arXiv:2005.12729;
    Huber 1964.
    """
    check_same_shape(values=values, old_values=old_values, returns=returns)
    values = at_least_float32(values)
    unclipped = losses = _half_squared(values - returns, huber_delta)
    if clip_range_value is not None:
        check_positive("clip_range_value", clip_range_value)
        clipped = old_values + (values - old_values).clamp(-clip_range_value, clip_range_value)
        losses = torch.maximum(unclipped, _half_squared(clipped - returns, huber_delta))
    return ValueLoss(_mean(losses, token_count), (losses > unclipped).sum())


def _half_squared(errors: Tensor, huber_delta: float | None) -> Tensor:
    """Half the square of each error, or with a δ Huber's loss."""
    if huber_delta is None:
        return errors.square() / 2
    check_positive("huber_delta", huber_delta)
    return huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=huber_delta)


def kl_penalty_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    old_logprobs: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    token_count: int | None = None,
) -> Tensor:
    """Compute the k2 KL penalty for the loss; its gradient estimates that of the exact KL.

        ρ = exp(logprob - old_logprob)    L = Σ sg(clip(ρ, 1-ε, 1+ε_high))·½(logprob - ref)² / count

    The detached ratio sg(·) is an importance weight: the old policy sampled the tokens.

    Args:
        logprobs: [N], nats, of the policy that is updated; differentiable.
        ref_logprobs: [N], nats, of the reference.
        old_logprobs: [N], nats, of the policy that sampled.
        clip_range: ε in [0, 1].
        clip_range_high: ε_high, at least 0; None: ε.
        token_count: tokens of the optimizer step; None: N.

    Returns:
        0-d, nats, before the coefficient.

    Raises:
        ValueError: shapes disagree, or an option is out of range.

    Source: Tang and Munos 2025, arXiv:2506.09477.
    """
    check_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs, old_logprobs=old_logprobs)
    ratio = _ratio(logprobs, old_logprobs).detach()
    clipped = ratio.clamp(*_clip_bounds(clip_range, clip_range_high))
    return _mean(clipped * kl_estimate(logprobs, ref_logprobs, "k2"), token_count)


def preference_loss(
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    labels: Tensor | None = None,
    *,
    margin: Tensor | float = 0.0,
    label_smoothing: float = 0.0,
    pair_count: int | None = None,
) -> Tensor:
    """Compute the mean Bradley-Terry loss of pairs.

        d = chosen - rejected - (2y - 1)·margin
        L = -y′·log σ(d) - (1 - y′)·log σ(-d)        y′ = (1 - ε)·y + ε·(1 - y)

    Args:
        chosen_scores: [B], raw scores.
        rejected_scores: [B], raw scores.
        labels: y [B], 1 where the chosen response is preferred, ½ for a tie; None: all 1.
        margin: [B] or a number, score units by which the chosen score should be higher.
        label_smoothing: ε in [0, ½], assumed share of wrong labels.
        pair_count: pairs of the whole optimizer step, which the sum is divided by; None: B.

    Returns:
        0-d, nats, float32 (float64 for float64 scores).

    Raises:
        ValueError: shapes disagree, there is no pair, or label_smoothing is out of range.

    Source: Bradley and Terry 1952; margin: Touvron et al. 2023, arXiv:2307.09288.
    """
    y = torch.ones_like(chosen_scores) if labels is None else labels
    check_same_shape(chosen_scores=chosen_scores, rejected_scores=rejected_scores, labels=y)
    check_between("label_smoothing", label_smoothing, 0, 0.5)
    check_positive("pairs", len(chosen_scores))
    if isinstance(margin, Tensor) and margin.dim():
        check_same_shape(chosen_scores=chosen_scores, margin=margin)
    y = at_least_float32(y)
    chosen, rejected = at_least_float32(chosen_scores), at_least_float32(rejected_scores)
    logits = chosen - rejected - (2 * y - 1) * margin
    smoothed = (1 - label_smoothing) * y + label_smoothing * (1 - y)
    losses = -(smoothed * logsigmoid(logits) + (1 - smoothed) * logsigmoid(-logits))
    return _mean(losses, pair_count, "pair_count")


def center_rewards_loss(
    chosen_scores: Tensor, rejected_scores: Tensor, *, pair_count: int | None = None
) -> Tensor:
    """Compute mean (chosen + rejected)², a penalty that keeps the scores near 0.

    The preference loss does not change if all scores are shifted.

    Args:
        chosen_scores: [B], raw scores.
        rejected_scores: [B], raw scores.
        pair_count: pairs of the whole optimizer step, which the sum is divided by; None: B.

    Returns:
        0-d, squared score units.

    Raises:
        ValueError: shapes disagree, or there is no pair.

    Source: Eisenstein et al. 2023, arXiv:2312.09244.
    """
    check_same_shape(chosen_scores=chosen_scores, rejected_scores=rejected_scores)
    check_positive("pairs", len(chosen_scores))
    sums = at_least_float32(chosen_scores) + at_least_float32(rejected_scores)
    return _mean(sums.square(), pair_count, "pair_count")
