"""Float64 tensors, and the settings of property tests."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

ragged = st.lists(st.integers(1, 512), min_size=1, max_size=6)
unit = st.floats(0, 1)
quick = settings(deadline=None, max_examples=25, derandomize=True, database=None)
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64: rounding of a few hundred sums


def doubles(*shape: int, grad: bool = False) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def exact(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)
