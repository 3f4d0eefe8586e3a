"""Products of few rows with a weight laid out anew."""

import pytest
import torch

from rlhf.kernels import prepacked_gemm as module
from rlhf.kernels.prepacked_gemm import prepacked_gemm


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("count", [1, 5, 32])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float64, 1e-12)]
)
def test_product_of_any_rows(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, count: int, blocks: bool
) -> None:
    if not blocks:
        monkeypatch.setattr(module, "can_prepack", lambda weight, dtype: False)
    numbers = torch.Generator().manual_seed(0)
    weight = torch.randn(70, 24, generator=numbers, dtype=torch.float64).to(dtype)
    x = torch.randn(count, 24, generator=numbers, dtype=torch.float64).to(dtype)
    out = prepacked_gemm(weight, 8, dtype)(x)
    assert (out.shape, out.dtype) == ((count, 70), dtype)
    expected = x.double() @ weight.double().T
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("blocks", [True, False])
def test_a_wider_weight_multiplies_in_the_dtype(
    monkeypatch: pytest.MonkeyPatch, blocks: bool
) -> None:
    if not blocks:
        monkeypatch.setattr(module, "can_prepack", lambda weight, dtype: False)
    weight = torch.tensor([[1 + 2**-10, 0.0], [0.0, 2.0]], requires_grad=True)
    out = prepacked_gemm(weight, 1, torch.bfloat16)(torch.tensor([[1.0, 1.0]]))
    assert out.tolist() == [[1.0, 2.0]]  # 1 + 2^-10 has no place in seven bits
    assert not out.requires_grad
