"""Advantages without a critic: a response against the others to the same prompt."""

import torch
from torch import Tensor

from rlhf.functional.checks import check_positive
from rlhf.kernels.span_ops import at_least_float32
from rlhf.spans import check_rows


def _group_sums(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """[B] float64 sum over each response's group, and [B] how many belong to it."""
    check_rows("scores", values, len(groups))
    check_rows("groups", groups, len(groups))
    _, slots, counts = groups.unique(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(counts), dtype=torch.float64)
    return sums.index_add(0, slots, values.double())[slots], counts[slots]


@torch.no_grad()
def rloo_advantages(scores: Tensor, groups: Tensor) -> Tensor:
    """[B] score minus the mean score of the group's other responses; 0 in a group of one.

        A_b = s_b - Σ_{j ≠ b} s_j / (n - 1)        over the n responses to b's prompt

    Args: scores [B], reward units; groups [B] int64 names each response's prompt, in any order.
    Source: Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740.
    """
    sums, counts = _group_sums(scores, groups)
    baseline = (sums - scores) / (counts - 1).clamp(min=1)
    alone = counts == 1
    return torch.where(alone, 0, scores - baseline).to(at_least_float32(scores).dtype)


@torch.no_grad()
def grpo_advantages(scores: Tensor, groups: Tensor, *, eps: float) -> Tensor:
    """[B] standardised score within the group; 0 in a group of one.

        A_b = (s_b - mean) / (std + ε)        std² = Σ (s_j - mean)² / (n - 1)

    The sample's standard deviation, as trl takes it, so that runs can be compared.

    Args: scores [B], reward units; groups [B] int64 names each response's prompt, in any order;
        eps ε above 0, reward units, keeps a group of equal scores at 0.
    Source: Shao et al. 2024, arXiv:2402.03300.
    """
    check_positive("eps", eps)
    sums, counts = _group_sums(scores, groups)
    apart = scores - sums / counts
    squares, _ = _group_sums(apart.square(), groups)
    std = (squares / (counts - 1).clamp(min=1)).sqrt()
    return torch.where(counts == 1, 0, apart / (std + eps)).to(at_least_float32(scores).dtype)
