"""Flash attention on a CPU: results and gradients beside a loop's, in every precision."""

from math import exp

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rlhf.kernels.flash_cpu import causal_attention, flash_attention, flash_attention_backward

SCALE = 0.3


def _tensors(dtype: torch.dtype, *, rows: int = 7) -> list[Tensor]:
    numbers = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, 2, 3, rows, 8, generator=numbers, dtype=torch.float64)
    return [x.to(dtype).requires_grad_() for x in drawn]


def _loop(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B, H, T, D] float64, one token after the other."""
    query, key, value = (x.double() for x in (query, key, value))
    tokens = []
    for last in range(query.shape[2]):
        products = (key[:, :, : last + 1] * query[:, :, last, None]).sum(-1) * SCALE
        weights = products.exp() / products.exp().sum(-1, keepdim=True)
        tokens.append((weights[..., None] * value[:, :, : last + 1]).sum(2))
    return torch.stack(tokens, dim=2)


def test_two_tokens_worked_by_hand() -> None:
    query = torch.tensor([1.0, 2.0]).reshape(1, 1, 2, 1)
    key, value = torch.tensor([3.0, 1.0]), torch.tensor([10.0, 20.0])
    found = causal_attention(query, key.reshape(1, 1, 2, 1), value.reshape(1, 1, 2, 1), 0.5)
    share = exp(2 * 1 * 0.5) / (exp(2 * 3 * 0.5) + exp(2 * 1 * 0.5))  # of the second token
    assert found.flatten().tolist() == pytest.approx([10, 10 + 10 * share], rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "near"),
    [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)],
)
def test_results_and_gradients_are_the_loops(dtype: torch.dtype, near: float) -> None:
    given, pull = _tensors(dtype), torch.randn(2, 3, 7, 8, dtype=torch.float64)
    found = causal_attention(*given, SCALE)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), _loop(*given), rtol=0, atol=near)
    slopes = torch.autograd.grad((found.double() * pull).sum(), given)
    wanted = torch.autograd.grad((_loop(*given) * pull).sum(), given)
    for slope, want in zip(slopes, wanted, strict=True):
        assert slope.dtype == dtype
        torch.testing.assert_close(slope, want, rtol=0, atol=near * 4)


def test_without_gradients_the_result_is_the_same() -> None:
    given = _tensors(torch.bfloat16)
    with torch.no_grad():
        found = causal_attention(*given, SCALE)
    assert torch.equal(found, causal_attention(*given, SCALE))


def test_bfloat16_gradients_are_those_of_the_same_numbers_in_float32() -> None:
    given = [x.detach() for x in _tensors(torch.bfloat16)]
    out, lse = flash_attention(*given, causal=True, scale=SCALE)
    narrow = flash_attention_backward(out, *given, out, lse, causal=True, scale=SCALE)
    wide = [x.float() for x in (out, *given, out)]
    again = flash_attention_backward(*wide, lse, causal=True, scale=SCALE)
    for one, other in zip(narrow, again, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_a_mask_is_added_to_the_products() -> None:
    given = _tensors(torch.float64)
    mask = torch.zeros(2, 3, 7, 7, dtype=torch.float64)
    mask[..., 5:] = -torch.inf
    out, _ = flash_attention(*given, causal=False, scale=SCALE, mask=mask)
    wanted = scaled_dot_product_attention(*given, attn_mask=mask, scale=SCALE)
    torch.testing.assert_close(out, wanted)
