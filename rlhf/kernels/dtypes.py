"""The precision in which sums and log-probabilities are computed."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor` in float32, or unchanged in float64: sums in half precision lose small terms."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
