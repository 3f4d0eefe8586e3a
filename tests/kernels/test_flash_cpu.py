"""Flash attention on a CPU: results and gradients beside a loop's, in every precision."""

from math import exp

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rlhf.kernels.flash_cpu import causal_attention, flash_attention, flash_attention_backward

SCALE = 0.3


def _tensors(dtype: torch.dtype, *, rows: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, 2, 3, rows, 8, generator=numbers, dtype=torch.float64)
    query, key, value = (x.to(dtype).requires_grad_() for x in drawn)
    return query, key, value


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
    output = causal_attention(query, key.reshape(1, 1, 2, 1), value.reshape(1, 1, 2, 1), 0.5)
    share = exp(2 * 1 * 0.5) / (exp(2 * 3 * 0.5) + exp(2 * 1 * 0.5))  # of the second token
    assert output.flatten().tolist() == pytest.approx([10, 10 + 10 * share], rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)],
)
def test_results_and_gradients_are_the_loops(dtype: torch.dtype, tolerance: float) -> None:
    inputs, grad_out = _tensors(dtype), torch.randn(2, 3, 7, 8, dtype=torch.float64)
    output = causal_attention(*inputs, SCALE)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), _loop(*inputs), rtol=0, atol=tolerance)
    grads = torch.autograd.grad((output.double() * grad_out).sum(), inputs)
    expected = torch.autograd.grad((_loop(*inputs) * grad_out).sum(), inputs)
    for grad, expected_grad in zip(grads, expected, strict=True):
        assert grad.dtype == dtype
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=tolerance * 4)


def test_without_gradients_the_result_is_the_same() -> None:
    inputs = _tensors(torch.bfloat16)
    with torch.no_grad():
        output = causal_attention(*inputs, SCALE)
    assert torch.equal(output, causal_attention(*inputs, SCALE))


def test_bfloat16_gradients_are_those_of_the_same_numbers_in_float32() -> None:
    query, key, value = (x.detach() for x in _tensors(torch.bfloat16))
    inputs = query, key, value
    output, lse = flash_attention(*inputs, causal=True, scale=SCALE)
    grads = flash_attention_backward(output, *inputs, output, lse, causal=True, scale=SCALE)
    upcast = query.float(), key.float(), value.float()
    upcast_grads = flash_attention_backward(
        output.float(), *upcast, output.float(), lse, causal=True, scale=SCALE
    )
    for grad, upcast_grad in zip(grads, upcast_grads, strict=True):
        assert grad.dtype == torch.float32
        assert torch.equal(grad, upcast_grad)


def test_a_mask_is_added_to_the_products() -> None:
    inputs = _tensors(torch.float64)
    mask = torch.zeros(2, 3, 7, 7, dtype=torch.float64)
    mask[..., 5:] = -torch.inf
    output, _ = flash_attention(*inputs, causal=False, scale=SCALE, mask=mask)
    expected = scaled_dot_product_attention(*inputs, attn_mask=mask, scale=SCALE)
    torch.testing.assert_close(output, expected)
