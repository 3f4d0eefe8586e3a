"""Advantages and value targets: GAE with a critic, RLOO and GRPO without one."""

import torch
from torch import Tensor

from rlhf.functional.checks import check_between, check_positive
from rlhf.kernels import add_at_span_end, later_in_span, span_discounted_sum
from rlhf.kernels.dtypes import at_least_float32
from rlhf.kernels.span_ops import checked_factor
from rlhf.spans import Spans, check_rows


@torch.no_grad()
def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    spans: Spans,
    *,
    gamma: float,
    gae_lambda: float | Tensor,
    final_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute generalized advantage estimates and returns [N], not whitened, without autograd.

        δₜ = rₜ + γ·Vₜ₊₁ - Vₜ        Aₜ = δₜ + γλ·Aₜ₊₁        Rₜ = Aₜ + Vₜ

    A response is one finished episode: V after its last token is 0, or its final value.

    Args:
        rewards: [N], reward units, the KL penalty already subtracted.
        values: [N], reward units, V of the state before token t.
        spans: B responses in the N tokens.
        gamma: γ in [0, 1], discount per token.
        gae_lambda: λ in [0, 1]: 0 gives the TD error, 1 the Monte Carlo return minus V. A tensor
            [B] has one λ per response.
        final_values: [B], reward units, V after the last token; None: all 0.

    Returns:
        Advantages and returns, [N] each, reward units, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes disagree, or gamma or gae_lambda is outside [0, 1].

    Source: Schulman et al. 2016, arXiv:1506.02438.
    """
    check_rows("rewards", rewards, spans.num_tokens)
    check_rows("values", values, spans.num_tokens)
    check_between("gamma", gamma, 0, 1)
    gae_lambda = checked_factor(gae_lambda, spans, "gae_lambda")
    values = at_least_float32(values)
    if final_values is not None:
        rewards = add_at_span_end(rewards, gamma * at_least_float32(final_values), spans)
    deltas = rewards + gamma * later_in_span(values, spans) - values
    advantages = span_discounted_sum(deltas, spans, gamma * gae_lambda)
    return advantages, advantages + values


def length_adaptive_lambda(lengths: Tensor, alpha: float) -> Tensor:
    """Compute a GAE λ [B] that grows with the length of each response.

        λ = clip(1 - 1 / (α·length), 0, 1)

    Unclipped, λ is negative for responses shorter than 1/α tokens.

    Args:
        lengths: [B], tokens, each at least 1.
        alpha: α above 0, 1/tokens; the source takes 0.05.

    Returns:
        [B] float64 in [0, 1).

    Raises:
        ValueError: alpha is not above 0.

    Source: Yue et al. 2025 (VAPO), arXiv:2504.05118.
    """
    check_positive("alpha", alpha)
    return (1 - 1 / (alpha * lengths.double())).clamp(min=0)


@torch.no_grad()
def rloo_advantages(scores: Tensor, groups: Tensor) -> Tensor:
    """Subtract from each score [B] the mean of the other scores of its group; 0 in a group of one.

        A_b = s_b - Σ_{j ≠ b} s_j / (n - 1)        over the n responses to b's prompt

    Args:
        scores: [B], reward units.
        groups: [B] int64, names the prompt of each response, in any order.

    Returns:
        Advantages [B], reward units, float32 (float64 for float64 scores).

    Raises:
        ValueError: shapes disagree.

    Source: Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740.
    """
    _, counts = _group_sums(scores, groups)
    advantages = scores - mean_of_others(scores, groups)
    return torch.where(counts == 1, 0, advantages).to(at_least_float32(scores).dtype)


@torch.no_grad()
def mean_of_others(scores: Tensor, groups: Tensor) -> Tensor:
    """Return for each score [B] the mean of the other scores of its group; NaN in a group of one.

    Args:
        scores: [B], reward units.
        groups: [B] int64, names the prompt of each response, in any order.

    Returns:
        [B] float64, reward units.

    Raises:
        ValueError: shapes disagree.
    """
    sums, counts = _group_sums(scores, groups)
    return (sums - scores) / (counts - 1)


@torch.no_grad()
def grpo_advantages(scores: Tensor, groups: Tensor, *, eps: float) -> Tensor:
    """Standardize each score [B] within its group; 0 in a group of one.

        A_b = (s_b - mean) / (std + ε)        std² = Σ (s_j - mean)² / (n - 1)

    The standard deviation divides by n - 1, as trl's does, so that runs can be compared.

    Args:
        scores: [B], reward units.
        groups: [B] int64, names the prompt of each response, in any order.
        eps: ε above 0, reward units; keeps a group of equal scores at 0.

    Returns:
        Advantages [B], without unit, float32 (float64 for float64 scores).

    Raises:
        ValueError: shapes disagree, or eps is not above 0.

    Source: Shao et al. 2024, arXiv:2402.03300.
    """
    check_positive("eps", eps)
    sums, counts = _group_sums(scores, groups)
    centered = scores - sums / counts
    squares, _ = _group_sums(centered.square(), groups)
    std = (squares / (counts - 1).clamp(min=1)).sqrt()
    return torch.where(counts == 1, 0, centered / (std + eps)).to(at_least_float32(scores).dtype)


def _group_sums(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over each response's group [B] float64, and the size of that group [B]."""
    check_rows("scores", values, len(groups))
    check_rows("groups", groups, len(groups))
    _, slots, counts = groups.unique(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(counts), dtype=torch.float64)
    return sums.index_add(0, slots, values.double())[slots], counts[slots]
