"""Advantages and value targets."""

import torch
from torch import Tensor

from rlhf.functional.checks import check_between
from rlhf.kernels.reference import later_in_span, span_discounted_sum, widened
from rlhf.spans import Spans, check_rows


@torch.no_grad()
def generalized_advantages(
    rewards: Tensor, values: Tensor, spans: Spans, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """advantages [N] and returns [N], float32 or better, no autograd, not whitened.

        δₜ = rₜ + γ·Vₜ₊₁ - Vₜ        Aₜ = δₜ + γλ·Aₜ₊₁        Rₜ = Aₜ + Vₜ

    A response is one finished episode: V after its last token is 0.

    Args: rewards [N], KL penalty already subtracted; values [N], V of the state before token t;
        gamma and gae_lambda in [0, 1]: λ = 0 is the TD error, 1 the Monte Carlo return minus V.
    Source: Schulman et al. 2016, arXiv:1506.02438.
    """
    check_rows("rewards", rewards, spans.total)
    check_rows("values", values, spans.total)
    check_between("gamma", gamma, 0, 1)
    check_between("gae_lambda", gae_lambda, 0, 1)
    values = widened(values)
    deltas = rewards + gamma * later_in_span(values, spans) - values
    advantages = span_discounted_sum(deltas, spans, gamma * gae_lambda)
    return advantages, advantages + values
