"""Attention of responses to their prompts, each prompt's keys and values held once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention, softplus

from rlhf.kernels.flash_cpu import flash, flash_backward, has_flash


@dataclass(frozen=True, eq=False)
class Groups:
    """Which prompt each response continues, and responses side by side with those of its prompt.

    Args: owner [B] int64, one of the g prompts, each of which has a response.
    """

    owner: Tensor

    @cached_property
    def places(self) -> Tensor:
        """[B] where each response stands among g·G places, G for each prompt."""
        order, counts = self.owner.argsort(stable=True), self.owner.bincount()
        nth = torch.empty_like(self.owner)
        firsts = (counts.cumsum(0) - counts)[self.owner[order]]
        nth[order] = torch.arange(len(order), device=order.device) - firsts
        return self.owner * self.size + nth

    @cached_property
    def size(self) -> int:
        """G, the most responses to one prompt."""
        return int(self.owner.bincount().max())

    @cached_property
    def count(self) -> int:
        """g."""
        return int(self.owner.max()) + 1

    @cached_property
    def in_order(self) -> bool:
        """Whether every prompt has G responses, one after the other."""
        return self.places.tolist() == list(range(self.count * self.size))

    def spread(self, rows: Tensor) -> Tensor:
        """[g, H, G·R, D] of [B, H, R, D]; zeros where a prompt has fewer responses."""
        if self.in_order and self.size == 1:
            return rows
        if not self.in_order:
            blank = rows.new_zeros(self.count * self.size, *rows.shape[1:])
            rows = blank.index_copy(0, self.places.to(rows.device), rows)
        grouped: Tensor = rows.unflatten(0, (self.count, self.size))
        return grouped.transpose(1, 2).flatten(2, 3)

    def collect(self, spread: Tensor) -> Tensor:
        """[B, H, R, D] of [g, H, G·R, D]."""
        if self.in_order and self.size == 1:
            return spread
        rows: Tensor = spread.unflatten(2, (self.size, -1)).transpose(1, 2).flatten(0, 1)
        return rows if self.in_order else rows.index_select(0, self.places.to(rows.device))

    def select(self, rows: Tensor) -> tuple["Groups", Tensor]:
        """The groups of these responses [K], and which of the prompts they have, rising."""
        prompts, owner = self.owner[rows].unique(return_inverse=True)
        return Groups(owner), prompts


def prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    groups: Groups,
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
        return _dense(*given, groups, lengths, scale, window)
    mask = None if lengths is None else _allowed(lengths, prefix_key, query.dtype)
    if query.shape[2] == 1:
        with torch.autocast(query.device.type, enabled=False):  # it would narrow all keys each time
            return _step(*given, groups, mask, scale)
    if not torch.is_grad_enabled():
        return _joined(*given, groups, mask, scale)[0]
    return _Joined.apply(*given, groups, mask, scale)  # type: ignore[no-any-return, no-untyped-call]


def _fold(rows: Tensor, key: Tensor) -> Tensor:
    """[·, K, H/K·R, D] of [·, H, R, D]: queries side by side that read the same key."""
    heads = key.shape[1]
    if rows.shape[1] == heads:
        return rows
    folded: Tensor = rows.unflatten(1, (heads, -1))
    return folded.flatten(2, 3)


def _unfold(folded: Tensor, heads: int) -> Tensor:
    """[·, H, R, D] of [·, K, H/K·R, D]."""
    if folded.shape[1] == heads:
        return folded
    rows: Tensor = folded.unflatten(2, (heads // folded.shape[1], -1))
    return rows.flatten(1, 2)


def near(rows: int, width: int, window: int | None, device: torch.device) -> Tensor:
    """[rows, width] which of `width` tokens each of the last `rows` sees of its row."""
    back = torch.arange(width - rows, width, device=device)[:, None] - torch.arange(
        width, device=device
    )
    return (back >= 0) & (back < (width if window is None else window))


def _allowed(lengths: Tensor, prefix_key: Tensor, dtype: torch.dtype) -> Tensor:
    """[g, 1, 1, P], 0 where a prompt is and -inf after it."""
    beyond = torch.arange(prefix_key.shape[2], device=lengths.device) >= lengths[:, None]
    blank = torch.zeros(beyond.shape, dtype=dtype, device=lengths.device)
    return blank.masked_fill_(beyond, -torch.inf)[:, None, None]


def _joined(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    groups: Groups,
    mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and [B, H, R] lse_own and lse_own - lse_prompt."""
    heads, causal = query.shape[1], query.shape[2] > 1
    own, own_lse = flash(_fold(query, key), key, value, causal=causal, scale=scale)
    own, own_lse = _unfold(own, heads), _unfold(own_lse.unsqueeze(-1), heads)
    spread = _fold(groups.spread(query), prefix_key)
    part, part_lse = flash(
        spread, prefix_key, prefix_value, causal=False, scale=scale, mask=_wide(mask, spread)
    )
    gap = own_lse - groups.collect(_unfold(part_lse.unsqueeze(-1), heads))
    out = torch.lerp(groups.collect(_unfold(part, heads)), own, gap.sigmoid().to(own.dtype))
    return out, own_lse.squeeze(-1), gap.squeeze(-1)


def _wide(mask: Tensor | None, spread: Tensor) -> Tensor | None:
    """A view [g, K, ·, P] of the mask [g, 1, 1, P]."""
    return mask if mask is None else mask.expand(*spread.shape[:3], -1)


class _Joined(torch.autograd.Function):
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
        groups: Groups,
        mask: Tensor | None,
        scale: float,
    ) -> Tensor:
        given = (query, key, value, prefix_key, prefix_value)
        out, own_lse, gap = _joined(*given, groups, mask, scale)
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
        pull, asks, gave, norm = (_fold(x, key) for x in rows)
        given = (pull, asks, key, value, gave, norm.squeeze(-1))
        own, d_key, d_value = flash_backward(*given, causal=causal, scale=ctx.scale)
        pull, asks, gave, norm = (_fold(groups.spread(x), prefix_key) for x in rows)
        given = (pull, asks, prefix_key, prefix_value, gave, norm.squeeze(-1))
        part, d_prefix_key, d_prefix_value = flash_backward(
            *given, causal=False, scale=ctx.scale, mask=_wide(mask, asks)
        )
        d_query = _unfold(own, heads) + groups.collect(_unfold(part, heads))
        return d_query, d_key, d_value, d_prefix_key, d_prefix_value, None, None, None


def _step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    groups: Groups,
    mask: Tensor | None,
    scale: float,
) -> Tensor:
    """The same for one token a row on any device, without a copy of keys or values."""
    heads, count = query.shape[1], prefix_key.shape[2]
    far = _fold(groups.spread(query), prefix_key) @ prefix_key.transpose(2, 3) * scale
    far = far if mask is None else far + mask
    seen = groups.collect(_unfold(far, heads))
    close = _unfold(_fold(query, key) @ key.transpose(2, 3) * scale, heads)
    weights = torch.cat([seen, close], dim=3).softmax(3, dtype=torch.float32).to(value.dtype)
    first = _fold(groups.spread(weights[..., :count]), prefix_key) @ prefix_value
    second = _fold(weights[..., count:], key) @ value
    return groups.collect(_unfold(first, heads)) + _unfold(second, heads)


def _dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    groups: Groups,
    lengths: Tensor | None,
    scale: float,
    window: int | None,
) -> Tensor:
    """The same on any device, by one call with a mask [g, 1, G·R, P+G·T]."""
    (rows, width), device = (query.shape[2], key.shape[2]), query.device
    own = torch.block_diag(*[near(rows, width, window, device)] * groups.size)
    prompt = torch.arange(prefix_key.shape[2], device=device)
    if lengths is None:
        lengths = torch.full((groups.count,), len(prompt), device=device)
    seen = prompt < lengths[:, None, None]
    if window is not None:  # the distance to a prompt's token
        late = torch.arange(width - rows, width, device=device).repeat(groups.size)
        seen = seen & (lengths[:, None, None] + late[:, None] - prompt < window)
    mask = torch.cat([seen.expand(-1, len(own), -1), own.expand(groups.count, -1, -1)], dim=2)
    times = query.shape[1] // prefix_key.shape[1]
    prefix_key, prefix_value = (
        x.repeat_interleave(times, dim=1) for x in (prefix_key, prefix_value)
    )
    if key.shape[1] < query.shape[1]:
        key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
    out = scaled_dot_product_attention(
        groups.spread(query),
        torch.cat([prefix_key, groups.spread(key)], dim=2),
        torch.cat([prefix_value, groups.spread(value)], dim=2),
        attn_mask=mask.unsqueeze(1),
        scale=scale,
    )
    return groups.collect(out)
