"""Products of few rows with a weight laid out anew."""

import pytest
import torch

from rlhf.kernels import prepacked_gemm as module
from rlhf.kernels.prepacked_gemm import output_logits, prepacked_gemm


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


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float64])
def test_sums_of_logits_are_not_rounded_to_half_precision(precision: torch.dtype) -> None:
    numbers = torch.Generator().manual_seed(0)
    weight = torch.randn(70, 24, generator=numbers, dtype=torch.float64).to(precision)
    x = torch.randn(5, 24, generator=numbers, dtype=torch.float64).to(precision)
    logits = output_logits(weight, 5, precision)(x)
    assert logits.dtype == torch.promote_types(precision, torch.float32)
    expected = x.double() @ weight.double().T
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_factors_of_logits_are_rounded_as_those_of_the_layers() -> None:
    weight = torch.tensor([[1 + 2**-10, 2**-10]])
    logits = output_logits(weight, 1, torch.bfloat16)(torch.tensor([[1.0, 1.0]]))
    assert logits.tolist() == [[1 + 2**-10]]
