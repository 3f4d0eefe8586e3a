"""Products of few rows, as decoding makes them, with a weight that does not change meanwhile."""

from collections.abc import Callable

import torch
from torch import Tensor


def prepacked_gemm(weight: Tensor, rows: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """[b, D] -> [b, V]: x·Wᵀ in `dtype`, of a copy of the weight that is made once, here.

    Args:
        weight: [V, D].
        rows: b, or about as many.
    """
    if can_prepack(weight, dtype):
        return prepacked_matmul(weight, rows, dtype)
    weight = weight.detach().to(dtype)
    return lambda x: (weight @ x.to(dtype).T).T.contiguous()  # faster for few rows than x·Wᵀ


def prepacked_matmul(
    weight: Tensor, rows: int, dtype: torch.dtype, bias: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """[…, b, D] -> […, b, V]: x·Wᵀ + bias in `dtype`, of a copy in oneDNN's blocked layout.

    For 8 rows, D = 512 and V = 32,000 a product takes 0.4 (float32) and 0.8 (bfloat16) of the time
    of a plain one, and to make the copy as long as two.

    Args:
        weight: [V, D], of which `can_prepack` is true.
        rows: b, or about as many.
        bias: [V].
    """
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), rows)
    added = None if bias is None else bias.detach().to(dtype)
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x.to(dtype), blocks, added, "none", [], "")


def can_prepack(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN knows a layout for the weight in this dtype here."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32
