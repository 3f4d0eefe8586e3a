"""Float64 tensors, the settings of property tests, and how large a tensor got."""

from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ragged = st.lists(st.integers(1, 512), min_size=1, max_size=6)
unit = st.floats(0, 1)
quick = settings(deadline=None, max_examples=25, derandomize=True, database=None)
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}  # float64: rounding of a few hundred sums


def doubles(*shape: int, grad: bool = False) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def exact(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements any operation returned."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result
