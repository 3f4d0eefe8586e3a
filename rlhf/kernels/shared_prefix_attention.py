"""Attention of responses to their prompts, each prompt's keys and values held once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention, softplus

from rlhf.kernels.flash_cpu import flash_attention, flash_attention_backward, has_flash


@dataclass(frozen=True, eq=False)
class PrefixGroups:
    """Which prompt each response continues, and responses side by side with those of its prompt.

    Args: owner [B] int64, one of the g prompts, each of which has a response.
    """

    prefix_ids: Tensor

    @cached_property
    def slots(self) -> Tensor:
        """[B] where each response stands among g·G places, G for each prompt."""
        order, counts = self.prefix_ids.argsort(stable=True), self.prefix_ids.bincount()
        nth = torch.empty_like(self.prefix_ids)
        firsts = (counts.cumsum(0) - counts)[self.prefix_ids[order]]
        nth[order] = torch.arange(len(order), device=order.device) - firsts
        return self.prefix_ids * self.max_size + nth

    @cached_property
    def max_size(self) -> int:
        """G, the most responses to one prompt."""
        return int(self.prefix_ids.bincount().max())

    @cached_property
    def num_prefixes(self) -> int:
        """g."""
        return int(self.prefix_ids.max()) + 1

    @cached_property
    def in_order(self) -> bool:
        """Whether every prompt has G responses, one after the other."""
        return self.slots.tolist() == list(range(self.num_prefixes * self.max_size))

    def group(self, rows: Tensor) -> Tensor:
        """[g, H, G·R, D] of [B, H, R, D]; zeros where a prompt has fewer responses."""
        if self.in_order and self.max_size == 1:
            return rows
        if not self.in_order:
            blank = rows.new_zeros(self.num_prefixes * self.max_size, *rows.shape[1:])
            rows = blank.index_copy(0, self.slots.to(rows.device), rows)
        grouped: Tensor = rows.unflatten(0, (self.num_prefixes, self.max_size))
        return grouped.transpose(1, 2).flatten(2, 3)

    def ungroup(self, spread: Tensor) -> Tensor:
        """[B, H, R, D] of [g, H, G·R, D]."""
        if self.in_order and self.max_size == 1:
            return spread
        rows: Tensor = spread.unflatten(2, (self.max_size, -1)).transpose(1, 2).flatten(0, 1)
        return rows if self.in_order else rows.index_select(0, self.slots.to(rows.device))

    def select(self, rows: Tensor) -> tuple["PrefixGroups", Tensor]:
        """The groups of these responses [K], and which of the prompts they have, rising."""
        prompts, owner = self.prefix_ids[rows].unique(return_inverse=True)
        return PrefixGroups(owner), prompts


def shared_prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    groups: PrefixGroups,
    lengths: Tensor | None,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """[B, H, R, D]: each query sees all of its prompt, and of its row what is not after it.

    The two parts are softmaxes of their own, joined by their normalisers:

        out = w·out_own + (1 - w)·out_prompt        w = sigmoid(lse_own - lse_prompt)

    Args:
        query: [B, H, R, D], the last R of T tokens; R is 1 or T.
        key, value: [B, K, T, D]; each serves H/K heads in a row.
        prefix_key, prefix_value: [g, K, P, D].
        groups: whose prompt each row continues.
        lengths: [g] tokens of each prompt, the rest of P is never seen; None: all P.
        scale: of the products before the softmax.
        window: tokens a query sees of prompt and row, itself the last; None: all.

    Source: Milakov, Gimelshein 2018, arXiv:1805.02867; Juravsky et al. 2024, arXiv:2402.05099.
    """
    if window is not None and window >= prefix_key.shape[2] + key.shape[2]:
        window = None
    if query.shape[2] > 1 and query.shape[1] > key.shape[1]:
        times = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
    given = (query, key, value, prefix_key, prefix_value)
    lengths = None if lengths is None else lengths.to(query.device)
    if window is not None or (not has_flash(query) and query.shape[2] > 1):
        return masked_attention(*given, groups, lengths, scale, window)
    mask = None if lengths is None else prefix_padding_mask(lengths, prefix_key, query.dtype)
    if query.shape[2] == 1:
        with torch.autocast(query.device.type, enabled=False):  # it would narrow all keys each time
            return decode_attention(*given, groups, mask, scale)
    if not torch.is_grad_enabled():
        return merged_attention(*given, groups, mask, scale)[0]
    return MergedAttention.apply(*given, groups, mask, scale)  # type: ignore[no-any-return, no-untyped-call]


def fold_heads(rows: Tensor, key: Tensor) -> Tensor:
    """[·, K, H/K·R, D] of [·, H, R, D]: queries side by side that read the same key."""
    heads = key.shape[1]
    if rows.shape[1] == heads:
        return rows
    folded: Tensor = rows.unflatten(1, (heads, -1))
    return folded.flatten(2, 3)


def unfold_heads(folded: Tensor, heads: int) -> Tensor:
    """[·, H, R, D] of [·, K, H/K·R, D]."""
    if folded.shape[1] == heads:
        return folded
    rows: Tensor = folded.unflatten(2, (heads // folded.shape[1], -1))
    return rows.flatten(1, 2)


def sliding_window_mask(rows: int, width: int, window: int | None, device: torch.device) -> Tensor:
    """[rows, width] which of `width` tokens each of the last `rows` sees of its row."""
    back = torch.arange(width - rows, width, device=device)[:, None] - torch.arange(
        width, device=device
    )
    return (back >= 0) & (back < (width if window is None else window))


def prefix_padding_mask(lengths: Tensor, prefix_key: Tensor, dtype: torch.dtype) -> Tensor:
    """[g, 1, 1, P], 0 where a prompt is and -inf after it."""
    beyond = torch.arange(prefix_key.shape[2], device=lengths.device) >= lengths[:, None]
    blank = torch.zeros(beyond.shape, dtype=dtype, device=lengths.device)
    return blank.masked_fill_(beyond, -torch.inf)[:, None, None]


def merged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    groups: PrefixGroups,
    mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and [B, H, R] lse_own and lse_own - lse_prompt."""
    heads, causal = query.shape[1], query.shape[2] > 1
    own, own_lse = flash_attention(fold_heads(query, key), key, value, causal=causal, scale=scale)
    own, own_lse = unfold_heads(own, heads), unfold_heads(own_lse.unsqueeze(-1), heads)
    spread = fold_heads(groups.group(query), prefix_key)
    part, part_lse = flash_attention(
        spread, prefix_key, prefix_value, causal=False, scale=scale, mask=_wide(mask, spread)
    )
    gap = own_lse - groups.ungroup(unfold_heads(part_lse.unsqueeze(-1), heads))
    out = torch.lerp(groups.ungroup(unfold_heads(part, heads)), own, gap.sigmoid().to(own.dtype))
    return out, own_lse.squeeze(-1), gap.squeeze(-1)


def _wide(mask: Tensor | None, spread: Tensor) -> Tensor | None:
    """A view [g, K, ·, P] of the mask [g, 1, 1, P]."""
    return mask if mask is None else mask.expand(*spread.shape[:3], -1)


class MergedAttention(torch.autograd.Function):
    """Both parts by the flash kernel, whose backward is right for each part given the joint
    result and the joint normaliser."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        groups: PrefixGroups,
        mask: Tensor | None,
        scale: float,
    ) -> Tensor:
        given = (query, key, value, prefix_key, prefix_value)
        out, own_lse, gap = merged_attention(*given, groups, mask, scale)
        lse = own_lse + softplus(-gap)  # log(own + prompt) = log own + log(1 + prompt / own)
        ctx.save_for_backward(*given, out, lse, mask)
        ctx.groups, ctx.scale = groups, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value, prefix_key, prefix_value, out, lse, mask = ctx.saved_tensors
        groups, heads, causal = ctx.groups, query.shape[1], query.shape[2] > 1
        rows = (grad, query, out, lse.unsqueeze(-1))
        pull, asks, gave, norm = (fold_heads(x, key) for x in rows)
        given = (pull, asks, key, value, gave, norm.squeeze(-1))
        own, d_key, d_value = flash_attention_backward(*given, causal=causal, scale=ctx.scale)
        pull, asks, gave, norm = (fold_heads(groups.group(x), prefix_key) for x in rows)
        given = (pull, asks, prefix_key, prefix_value, gave, norm.squeeze(-1))
        part, d_prefix_key, d_prefix_value = flash_attention_backward(
            *given, causal=False, scale=ctx.scale, mask=_wide(mask, asks)
        )
        d_query = unfold_heads(own, heads) + groups.ungroup(unfold_heads(part, heads))
        return d_query, d_key, d_value, d_prefix_key, d_prefix_value, None, None, None


def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    groups: PrefixGroups,
    mask: Tensor | None,
    scale: float,
) -> Tensor:
    """The same for one token a row on any device, without a copy of keys or values."""
    heads, count = query.shape[1], prefix_key.shape[2]
    far = fold_heads(groups.group(query), prefix_key) @ prefix_key.transpose(2, 3) * scale
    far = far if mask is None else far + mask
    seen = groups.ungroup(unfold_heads(far, heads))
    close = unfold_heads(fold_heads(query, key) @ key.transpose(2, 3) * scale, heads)
    weights = torch.cat([seen, close], dim=3).softmax(3, dtype=torch.float32).to(value.dtype)
    first = fold_heads(groups.group(weights[..., :count]), prefix_key) @ prefix_value
    second = fold_heads(weights[..., count:], key) @ value
    return groups.ungroup(unfold_heads(first, heads)) + unfold_heads(second, heads)


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    groups: PrefixGroups,
    lengths: Tensor | None,
    scale: float,
    window: int | None,
) -> Tensor:
    """The same on any device, by one call with a mask [g, 1, G·R, P+G·T]."""
    (rows, width), device = (query.shape[2], key.shape[2]), query.device
    own = torch.block_diag(*[sliding_window_mask(rows, width, window, device)] * groups.max_size)
    prompt = torch.arange(prefix_key.shape[2], device=device)
    if lengths is None:
        lengths = torch.full((groups.num_prefixes,), len(prompt), device=device)
    seen = prompt < lengths[:, None, None]
    if window is not None:  # the distance to a prompt's token
        late = torch.arange(width - rows, width, device=device).repeat(groups.max_size)
        seen = seen & (lengths[:, None, None] + late[:, None] - prompt < window)
    mask = torch.cat(
        [seen.expand(-1, len(own), -1), own.expand(groups.num_prefixes, -1, -1)], dim=2
    )
    times = query.shape[1] // prefix_key.shape[1]
    prefix_key, prefix_value = (
        x.repeat_interleave(times, dim=1) for x in (prefix_key, prefix_value)
    )
    if key.shape[1] < query.shape[1]:
        key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
    out = scaled_dot_product_attention(
        groups.group(query),
        torch.cat([prefix_key, groups.group(key)], dim=2),
        torch.cat([prefix_value, groups.group(value)], dim=2),
        attn_mask=mask.unsqueeze(1),
        scale=scale,
    )
    return groups.ungroup(out)
