"""Flash attention of torch on a CPU, with its log-sum-exp and a float32 backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def has_flash(query: Tensor) -> bool:
    """Whether torch has a flash kernel for this device that returns the log-sum-exp."""
    return query.device.type == "cpu"


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scale: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend on a CPU, without autograd.

    Args:
        query: [B, H, R, D].
        key: [B, H, T, D].
        value: [B, H, T, D].
        causal: whether the attention is causal; then R is T.
        scale: factor of the logits before the softmax.
        mask: [B, H, R, T], added to the scaled logits; None: no mask.

    Returns:
        Output [B, H, R, D], and log-sum-exp of each query's logits [B, H, R] float32.
    """
    out, lse = _forward(query, key, value, 0.0, causal, attn_mask=mask, scale=scale)
    return out, lse


def flash_attention_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    causal: bool,
    scale: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of query, key and value in float32 (float64 for float64 inputs).

    In torch 2.13 the kernel takes 1.2 to 8 times as long in bfloat16, so inputs are upcast.

    Args:
        grad_out: [B, H, R, D], gradient of the output.
        query: [B, H, R, D].
        key: [B, H, T, D].
        value: [B, H, T, D].
        out: [B, H, R, D], output of `flash_attention`.
        lse: [B, H, R] float32, log-sum-exp of `flash_attention`.
        causal: argument of the forward.
        scale: argument of the forward.
        mask: argument of the forward.

    Returns:
        Gradients of query [B, H, R, D], key [B, H, T, D] and value [B, H, T, D].
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    grad_out, query, key, value, out = (x.to(dtype) for x in (grad_out, query, key, value, out))
    mask = None if mask is None else mask.to(dtype)
    arguments = (grad_out, query, key, value, out, lse, 0.0, causal)
    grad_query, grad_key, grad_value = _backward(*arguments, attn_mask=mask, scale=scale)
    return grad_query, grad_key, grad_value


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal self-attention, differentiable.

    Equals `scaled_dot_product_attention(..., is_causal=True)`; on a CPU its backward runs in
    float32.

    Args:
        query: [B, H, T, D].
        key: [B, H, T, D].
        value: [B, H, T, D].
        scale: factor of the logits before the softmax.

    Returns:
        [B, H, T, D], in the dtype of the query.
    """
    if has_flash(query) and torch.is_grad_enabled():
        return _CausalAttention.apply(query, key, value, scale)  # type: ignore[no-any-return, no-untyped-call]
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)


class _CausalAttention(torch.autograd.Function):
    """Causal `flash_attention` with `flash_attention_backward`."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out, lse = flash_attention(query, key, value, causal=True, scale=scale)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        grads = flash_attention_backward(grad_out, *ctx.saved_tensors, causal=True, scale=ctx.scale)
        return *grads, None
