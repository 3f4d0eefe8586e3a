"""Statistics over the tokens of a batch."""

import torch
from torch import Tensor

from rlhf.functional.checks import check_positive, check_same_shape
from rlhf.kernels.span_ops import at_least_float32


def whiten(values: Tensor, *, min_std: float = 1e-8, shift_mean: bool = True) -> Tensor:
    """[N], (x - mean) / max(std, floor) by the population std; the mean stays on request.

    Args: values [N]; floor, in their units: a smaller std is noise, not to be blown up to 1.
    """
    check_positive("floor", min_std)
    if not values.numel():
        return at_least_float32(values)
    exact = values.double()  # in float32 the rounding of the mean is such noise
    mean, std = exact.mean(), exact.std(correction=0)
    white = (exact - mean) / std.clamp(min=min_std)
    return (white if shift_mean else white + mean).to(at_least_float32(values).dtype)


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """0-d, 1 - Var(returns - values) / Var(returns): 1 is perfect; 0 if returns do not vary."""
    check_same_shape(values=values, returns=returns)
    if not returns.numel():
        return at_least_float32(values).new_zeros(())
    exact = returns.double()
    unexplained = (exact - values.double()).var(correction=0) / exact.var(correction=0)
    constant = (returns == returns[:1]).all()
    return torch.where(constant, 0, 1 - unexplained).to(at_least_float32(values).dtype)
