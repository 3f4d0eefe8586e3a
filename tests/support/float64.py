"""Float64 tensors, strategies and settings of property tests, and the largest tensor of a block."""

from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ragged = st.lists(st.integers(1, 512), min_size=1, max_size=6)
unit = st.floats(0, 1)
quick = settings(deadline=None, max_examples=25, derandomize=True, database=None)
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}  # rounding of a few hundred float64 sums


def random_float64(*shape: int, grad: bool = False) -> Tensor:
    """Return normal random numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def exact(numbers: list[float]) -> Tensor:
    """Return numbers as a float64 tensor."""
    return torch.tensor(numbers, dtype=torch.float64)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operation returned."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result
