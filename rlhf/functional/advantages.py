"""Advantages and value targets."""

import torch
from torch import Tensor

from rlhf.functional.checks import check_between, check_positive
from rlhf.kernels import add_at_span_end, span_discounted_sum
from rlhf.kernels.span_ops import at_least_float32, checked_factor, later_in_span
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
    """advantages [N] and returns [N], float32 or better, no autograd, not whitened.

        δₜ = rₜ + γ·Vₜ₊₁ - Vₜ        Aₜ = δₜ + γλ·Aₜ₊₁        Rₜ = Aₜ + Vₜ

    A response is one finished episode: V after its last token is 0, or its final value.

    Args: rewards [N], KL penalty already subtracted; values [N], V of the state before token t;
        gamma and gae_lambda in [0, 1]: λ = 0 is the TD error, 1 the Monte Carlo return minus V,
        a tensor [B] one λ a response; final_values [B], V after the last token, None for all 0.
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
    """[B] λ that grows with the length of a response, float64.

        λ = clip(1 - 1 / (α·length), 0, 1)

    Unclipped it is negative for responses shorter than 1/α tokens.

    Args: lengths [B], tokens, each at least 1; alpha above 0; the source takes 0.05.
    Source: Yue et al. 2025 (VAPO), arXiv:2504.05118.
    """
    check_positive("alpha", alpha)
    return (1 - 1 / (alpha * lengths.double())).clamp(min=0)
