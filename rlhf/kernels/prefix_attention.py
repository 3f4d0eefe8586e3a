"""Attention of responses to their prompts, each prompt's keys and values held once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention, softplus

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


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
            rows = blank.index_copy(0, self.places, rows)
        grouped: Tensor = rows.unflatten(0, (self.count, self.size))
        return grouped.transpose(1, 2).flatten(2, 3)

    def collect(self, spread: Tensor) -> Tensor:
        """[B, H, R, D] of [g, H, G·R, D]."""
        if self.in_order and self.size == 1:
            return spread
        rows: Tensor = spread.unflatten(2, (self.size, -1)).transpose(1, 2).flatten(0, 1)
        return rows if self.in_order else rows[self.places]

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
        key, value: [B, H, T, D].
        prefix_key, prefix_value: [g, H, P, D].
        groups: whose prompt each row continues.
        lengths: [g] tokens of each prompt, the rest of P is never seen; None: all P.
        scale: of the products before the softmax.
        window: tokens a query sees of prompt and row, itself the last; None: all.

    Source: Milakov, Gimelshein 2018, arXiv:1805.02867; Juravsky et al. 2024, arXiv:2402.05099.
    """
    if window is not None and window >= prefix_key.shape[2] + key.shape[2]:
        window = None
    if query.device.type == "cpu" and window is None:
        mask = None if lengths is None else _allowed(lengths, prefix_key, query.dtype)
        given = (query, key, value, prefix_key, prefix_value)
        if not torch.is_grad_enabled():
            return _joined(*given, groups, mask, scale)[0]
        return _Joined.apply(*given, groups, mask, scale)  # type: ignore[no-any-return, no-untyped-call]
    return _dense(query, key, value, prefix_key, prefix_value, groups, lengths, scale, window)


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


def _expanded(mask: Tensor | None, groups: Groups, query: Tensor) -> Tensor | None:
    """A view [g, H, G·R, P] of the mask."""
    rows = groups.size * query.shape[2]
    return mask if mask is None else mask.expand(-1, query.shape[1], rows, -1)


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
    own, own_lse = _flash(query, key, value, 0.0, query.shape[2] > 1, scale=scale)
    mask = _expanded(mask, groups, query)
    part, part_lse = _flash(
        groups.spread(query), prefix_key, prefix_value, 0.0, False, attn_mask=mask, scale=scale
    )
    gap = own_lse - groups.collect(part_lse.unsqueeze(-1)).squeeze(-1)
    weight = gap.sigmoid().to(own.dtype).unsqueeze(-1)
    return torch.lerp(groups.collect(part), own, weight), own_lse, gap


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
        ctx.groups, ctx.scale, ctx.causal = groups, scale, query.shape[2] > 1
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value, prefix_key, prefix_value, out, lse, mask = ctx.saved_tensors
        groups: Groups = ctx.groups
        mask = _expanded(mask, groups, query)
        own, d_key, d_value = _flash_backward(
            grad, query, key, value, out, lse, 0.0, ctx.causal, scale=ctx.scale
        )
        spread = [groups.spread(x) for x in (grad, query, out)]
        part, d_prefix_key, d_prefix_value = _flash_backward(
            spread[0],
            spread[1],
            prefix_key,
            prefix_value,
            spread[2],
            groups.spread(lse.unsqueeze(-1)).squeeze(-1),
            0.0,
            False,
            attn_mask=mask,
            scale=ctx.scale,
        )
        d_query = own + groups.collect(part)
        return d_query, d_key, d_value, d_prefix_key, d_prefix_value, None, None, None


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
    out = scaled_dot_product_attention(
        groups.spread(query),
        torch.cat([prefix_key, groups.spread(key)], dim=2),
        torch.cat([prefix_value, groups.spread(value)], dim=2),
        attn_mask=mask.unsqueeze(1),
        scale=scale,
    )
    return groups.collect(out)
