"""Attention of one token: to a buffer that is not full yet, and with logits of float32."""

import pytest
import torch
from torch import Tensor

from rlhf.kernels.prefix_groups import PrefixGroups
from rlhf.kernels.shared_prefix_attention import shared_prefix_attention
from tests.kernels.test_shared_prefix_attention import PREFIX_IDS, SCALE, loop, random_inputs
from tests.support.device_tensor import Kind
from tests.support.disguised_gpu import disguised_gpu


@pytest.mark.parametrize("prefix_ids", PREFIX_IDS)
@pytest.mark.parametrize("column", [0, 2, 5])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("window", [None, 1, 4, 6])
@pytest.mark.parametrize("key_heads", [1, 2])
def test_columns_after_its_own_are_not_attended_to(
    prefix_ids: list[int], column: int, ragged: bool, window: int | None, key_heads: int
) -> None:
    """Six columns, of which the later ones hold large numbers."""
    query, key, value, prefix_key, prefix_value = random_inputs(prefix_ids, 1, 6, key_heads)
    lengths = [2, 5, 3][: max(prefix_ids) + 1] if ragged else [5] * (max(prefix_ids) + 1)
    filled = (x[:, :, : column + 1].clone() for x in (key, value))
    tensors = [query, *filled, prefix_key, prefix_value]
    expected = loop(tensors, prefix_ids, lengths, window or 100)
    key[:, :, column + 1 :] = value[:, :, column + 1 :] = 50
    out = shared_prefix_attention(
        query,
        key,
        value,
        prefix_key,
        prefix_value,
        PrefixGroups(torch.tensor(prefix_ids)),
        torch.tensor(lengths) if ragged else None,
        scale=SCALE,
        window=window,
        column=torch.tensor([column]),
    )
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def decoded(kind: Kind, *, grad: bool = False) -> tuple[Tensor, int]:
    """Attention of a token to two keys on a GPU in disguise, and its number of float32 products.

    The logits are 128 of the prefix and 128.25 of the suffix, the values 0 and 1.
    """
    rows = [[128, 0.25], [1, 1], [1, 1], [1, 0], [0, 0]]
    tensors = [torch.tensor(row, dtype=torch.bfloat16).view(1, 1, 1, 2) for row in rows]
    with disguised_gpu(kind) as gpu, torch.set_grad_enabled(grad):
        q, k, v, pk, pv = (x.to(kind).requires_grad_(grad) for x in tensors)
        groups = PrefixGroups(torch.tensor([0]))
        out = shared_prefix_attention(q, k, v, pk, pv, groups, None, scale=1.0)
        return out.detach().cpu(), gpu.operators["aten::bmm.dtype"]


def test_logits_of_bfloat16_are_not_rounded_on_cuda() -> None:
    """Between 128 and 256 the numbers of bfloat16 are whole."""
    out, products = decoded("cuda")
    assert out.dtype == torch.bfloat16 and products == 2
    assert out.flatten().tolist() == pytest.approx([0.5622, 0.5622], abs=0.002)  # σ(0.25)


@pytest.mark.parametrize(("kind", "grad"), [("mps", False), ("cuda", True)])
def test_what_torch_lacks_is_not_asked_for(kind: Kind, grad: bool) -> None:
    """Products with float32 sums are on CUDA only, and have no derivative."""
    out, products = decoded(kind, grad=grad)
    assert out.flatten().tolist() == [0.5, 0.5] and products == 0


def test_float32_is_multiplied_as_it_is() -> None:
    tensors, groups = random_inputs([0, 0, 1], 1, 4, 2), PrefixGroups(torch.tensor([0, 0, 1]))
    expected = shared_prefix_attention(*tensors, groups, None, scale=SCALE)
    with disguised_gpu() as gpu, torch.no_grad():
        q, k, v, pk, pv = (x.to("cuda") for x in tensors)
        out = shared_prefix_attention(q, k, v, pk, pv, groups, None, scale=SCALE)
        assert gpu.operators["aten::bmm.dtype"] == 0
        torch.testing.assert_close(out.cpu(), expected, atol=1e-6, rtol=1e-6)
