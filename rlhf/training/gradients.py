"""Gradient clipping and a test for finite numbers, used by all training loops."""

import math
from collections.abc import Sequence

from torch import nn


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients down so that their joint L2 norm is at most `max_norm`.

    Args:
        parameters: parameters whose gradients are scaled in place; those without one are ignored.
        max_norm: largest L2 norm after clipping.

    Returns:
        The L2 norm before clipping; 0 if no parameter has a gradient.
    """
    with_gradient = [value for value in parameters if value.grad is not None]
    return float(nn.utils.clip_grad_norm_(with_gradient, max_norm)) if with_gradient else 0.0


def finite(*values: float) -> bool:
    """Whether no value is NaN or infinite."""
    return all(math.isfinite(value) for value in values)
