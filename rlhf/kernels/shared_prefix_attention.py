"""Shared-prefix attention: the keys and values of a prompt are stored once for all responses.

Shapes are named in `shared_prefix_inputs`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention, softplus

from rlhf.kernels.decode_attention import decode_attention
from rlhf.kernels.flash_cpu import flash_attention, flash_attention_backward, has_flash
from rlhf.kernels.prefix_groups import PrefixGroups
from rlhf.kernels.shared_prefix_inputs import (
    SharedPrefixInputs,
    fold_heads,
    repeat_heads,
    unfold_heads,
)


def shared_prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    groups: PrefixGroups,
    prefix_lens: Tensor | None,
    *,
    scale: float,
    window: int | None = None,
    column: Tensor | None = None,
) -> Tensor:
    """Attention of each response to its prompt and, causally, to itself; differentiable.

    Attention to the prompt and to the response are computed apart and merged by log-sum-exp:

        out = w·out_suffix + (1 - w)·out_prefix        w = sigmoid(lse_suffix - lse_prefix)

    Args:
        query: [B, H, R, D], of the last R of T tokens; R is 1 or T.
        key: [B, K, T, D], each head for H/K consecutive query heads.
        value: [B, K, T, D].
        prefix_key: [g, K, P, D].
        prefix_value: [g, K, P, D].
        groups: which prefix each response continues.
        prefix_lens: [g] int64, tokens of each prefix, later ones are masked; None: P for all.
        scale: factor of the logits before the softmax.
        window: sliding window, tokens that a query attends to, itself included; None: no limit.
        column: [1] int64, column of the query's own key among T, where R is 1 and the keys have no
            values yet in later columns; None: the last one.

    Returns:
        [B, H, R, D], in the dtype of the query.

    Source: merging: Milakov, Gimelshein 2018, arXiv:1805.02867; shared prefixes: Juravsky et al.
    2024, arXiv:2402.05099.
    """
    if window is not None and window >= prefix_key.shape[2] + key.shape[2]:
        window = None
    if query.shape[2] > 1:
        key, value = (repeat_heads(x, query.shape[1]) for x in (key, value))
    prefix_lens = None if prefix_lens is None else prefix_lens.to(query.device)
    inputs = SharedPrefixInputs(
        query, key, value, prefix_key, prefix_value, groups, prefix_lens, scale
    )
    if query.shape[2] == 1:
        with torch.autocast(query.device.type, enabled=False):  # it would cast all keys
            return decode_attention(inputs, window, column)
    if window is not None or not has_flash(query):
        return masked_attention(inputs, window)
    if not torch.is_grad_enabled():
        return merged_attention(inputs)[0]
    return _MergedAttention.apply(*inputs)  # type: ignore[no-any-return, no-untyped-call]


def sliding_window_mask(rows: int, width: int, window: int | None, device: torch.device) -> Tensor:
    """Causal mask [rows, width] bool: which of `width` keys each of the last `rows` attends to.

    Args:
        rows: R, number of queries.
        width: T, number of keys.
        window: tokens that a query attends to, itself included; None: no limit.
        device: device of the mask.
    """
    queries = torch.arange(width - rows, width, device=device)
    distance = queries[:, None] - torch.arange(width, device=device)
    return (distance >= 0) & (distance < (width if window is None else window))


def prefix_padding_mask(inputs: SharedPrefixInputs) -> Tensor | None:
    """Additive mask [g, 1, 1, P]: 0 in a prefix, -inf after it; None: no prefix is padded."""
    if inputs.prefix_lens is None:
        return None
    positions = torch.arange(inputs.prefix_key.shape[2], device=inputs.prefix_lens.device)
    padding = positions >= inputs.prefix_lens[:, None]
    mask = torch.zeros(padding.shape, dtype=inputs.query.dtype, device=padding.device)
    return mask.masked_fill_(padding, -torch.inf)[:, None, None]


def merge_attn_states(
    prefix_out: Tensor, prefix_lse: Tensor, suffix_out: Tensor, suffix_lse: Tensor
) -> tuple[Tensor, Tensor]:
    """Merge attention to two sets of keys into attention to their union.

    Args:
        prefix_out: [B, H, R, D], attention to the prefix.
        prefix_lse: [B, H, R, 1] float32, log-sum-exp of its logits.
        suffix_out: [B, H, R, D], attention to the suffix.
        suffix_lse: [B, H, R, 1] float32.

    Returns:
        The merged attention [B, H, R, D] and its log-sum-exp [B, H, R, 1].

    Source: Milakov, Gimelshein 2018, arXiv:1805.02867.
    """
    lse_diff = suffix_lse - prefix_lse
    out = torch.lerp(prefix_out, suffix_out, lse_diff.sigmoid().to(suffix_out.dtype))
    # log(suffix + prefix) = log(suffix) + log(1 + prefix / suffix)
    return out, suffix_lse + softplus(-lse_diff)


def merged_attention(inputs: SharedPrefixInputs) -> tuple[Tensor, Tensor]:
    """Compute the attention on a CPU by one flash call for the suffixes and one for the prefixes.

    Returns:
        Attention [B, H, R, D] and its log-sum-exp [B, H, R, 1] float32.
    """
    query, key, value, prefix_key, prefix_value, groups, _, scale = inputs
    heads, causal = query.shape[1], query.shape[2] > 1
    suffix = flash_attention(fold_heads(query, key), key, value, causal=causal, scale=scale)
    suffix_out, suffix_lse = (unfold_heads(x, heads) for x in (suffix[0], suffix[1].unsqueeze(-1)))
    grouped = fold_heads(groups.group(query), prefix_key)
    prefix = flash_attention(
        grouped,
        prefix_key,
        prefix_value,
        causal=False,
        scale=scale,
        mask=_expanded_mask(inputs, grouped),
    )
    prefix_out, prefix_lse = (
        groups.ungroup(unfold_heads(x, heads)) for x in (prefix[0], prefix[1].unsqueeze(-1))
    )
    return merge_attn_states(prefix_out, prefix_lse, suffix_out, suffix_lse)


class _MergedAttention(torch.autograd.Function):
    """`merged_attention` with gradients.

    The backward of flash attention is called for each part with the merged output and the merged
    log-sum-exp, from which it recomputes the merged probabilities.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        inputs = SharedPrefixInputs(*arguments)
        out, lse = merged_attention(inputs)
        ctx.save_for_backward(*inputs[:5], inputs.prefix_lens, out, lse)
        ctx.groups, ctx.scale = inputs.groups, inputs.scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        *tensors, prefix_lens, out, lse = ctx.saved_tensors
        query, key, value, prefix_key, prefix_value = tensors
        groups, scale = ctx.groups, ctx.scale
        inputs = SharedPrefixInputs(
            query, key, value, prefix_key, prefix_value, groups, prefix_lens, scale
        )
        heads, causal = query.shape[1], query.shape[2] > 1
        rows = (grad_out, query, out, lse)
        suffix_rows = [fold_heads(x, key) for x in rows]
        suffix_grad, grad_key, grad_value = _flash_backward(
            suffix_rows, key, value, causal=causal, scale=scale, mask=None
        )
        prefix_rows = [fold_heads(groups.group(x), prefix_key) for x in rows]
        mask = _expanded_mask(inputs, prefix_rows[1])
        prefix_grad, grad_prefix_key, grad_prefix_value = _flash_backward(
            prefix_rows, prefix_key, prefix_value, causal=False, scale=scale, mask=mask
        )
        prefix_grad = groups.ungroup(unfold_heads(prefix_grad, heads))
        grad_query = unfold_heads(suffix_grad, heads) + prefix_grad
        return grad_query, grad_key, grad_value, grad_prefix_key, grad_prefix_value, *[None] * 3


def _flash_backward(
    rows: list[Tensor], key: Tensor, value: Tensor, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; `rows` are grad_out, query, out and lse, folded."""
    grad_out, query, out, lse = rows
    return flash_attention_backward(grad_out, query, key, value, out, lse.squeeze(-1), **options)


def _expanded_mask(inputs: SharedPrefixInputs, grouped: Tensor) -> Tensor | None:
    """Padding mask [g, K, ·, P], a view, for grouped queries [g, K, ·, D]."""
    mask = prefix_padding_mask(inputs)
    return None if mask is None else mask.expand(*grouped.shape[:3], -1)


def masked_attention(inputs: SharedPrefixInputs, window: int | None) -> Tensor:
    """Compute the attention by one SDPA call with a mask, on any device and with any window.

    Args:
        inputs: arguments; key and value have K or H heads.
        window: tokens that a query attends to, itself included; None: no limit.

    Returns:
        [B, H, R, D].
    """
    query, groups, heads = inputs.query, inputs.groups, inputs.query.shape[1]
    key, value, prefix_key, prefix_value = (repeat_heads(x, heads) for x in inputs[1:5])
    out = scaled_dot_product_attention(
        groups.group(query),
        torch.cat([prefix_key, groups.group(key)], dim=2),
        torch.cat([prefix_value, groups.group(value)], dim=2),
        attn_mask=_grouped_mask(inputs, window).unsqueeze(1),
        scale=inputs.scale,
    )
    return groups.ungroup(out)


def _grouped_mask(inputs: SharedPrefixInputs, window: int | None) -> Tensor:
    """Mask [g, G·R, P+G·T] bool of the queries of a group over its prefix and its suffixes."""
    groups, device = inputs.groups, inputs.query.device
    rows, width = inputs.query.shape[2], inputs.key.shape[2]
    causal = sliding_window_mask(rows, width, window, device)
    suffix_mask = torch.block_diag(*[causal] * groups.max_size)
    prefix_positions = torch.arange(inputs.prefix_key.shape[2], device=device)
    prefix_lens = inputs.prefix_lens
    if prefix_lens is None:
        prefix_lens = torch.full((groups.num_prefixes,), len(prefix_positions), device=device)
    prefix_mask = prefix_positions < prefix_lens[:, None, None]
    if window is not None:
        queries = torch.arange(width - rows, width, device=device).repeat(groups.max_size)
        distance = prefix_lens[:, None, None] + queries[:, None] - prefix_positions
        prefix_mask = prefix_mask & (distance < window)
    prefix_mask = prefix_mask.expand(-1, len(suffix_mask), -1)
    return torch.cat([prefix_mask, suffix_mask.expand(groups.num_prefixes, -1, -1)], dim=2)
