"""The dtype of sums and log-probabilities."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert `tensor` to float32, but keep float64: half-precision sums lose small terms."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
