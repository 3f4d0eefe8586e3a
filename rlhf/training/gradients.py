"""Gradient clipping and a test for finite numbers, used by all training loops."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from rlhf.models.sharding import split_by_sharding


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients down so that their joint L2 norm is at most `max_norm`.

    Args:
        parameters: parameters whose gradients are scaled in place; those without one are ignored.
            Sharded ones count whole, so that every process calls this.
        max_norm: largest L2 norm after clipping.

    Returns:
        The L2 norm before clipping; 0 if no parameter has a gradient.
    """
    with_gradient = [value for value in parameters if value.grad is not None]
    kinds = [kind for kind in split_by_sharding(with_gradient) if kind]
    norms = [get_total_norm([x.grad for x in kind if x.grad is not None]) for kind in kinds]
    if not norms:
        return 0.0
    norm = norms[0] if len(norms) == 1 else torch.tensor(math.hypot(*map(float, norms)))
    for kind in kinds:
        clip_grads_with_norm_(kind, max_norm, norm)
    return float(norm)


def finite(*values: float) -> bool:
    """Whether no value is NaN or infinite."""
    return all(math.isfinite(value) for value in values)
