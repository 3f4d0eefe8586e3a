"""Attention patterns of packed batches: which tokens attend to which.

Queries, keys and values are [S, H, Dh] for a whole batch. Rows are padded only inside attention.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rlhf.kernels import gather_spans, scatter_spans
from rlhf.kernels.flash_cpu import causal_attention
from rlhf.kernels.prefix_groups import PrefixGroups
from rlhf.kernels.shared_prefix_attention import shared_prefix_attention, sliding_window_mask
from rlhf.models.packed.kv_cache import KVCache
from rlhf.spans import Spans


class AttentionParams(NamedTuple):
    """Scale and window of one layer's attention.

    Attributes:
        scale: factor of the logits before the softmax.
        window: sliding window, tokens that a query attends to, itself included; None: no limit.
        last_layer: whether this is the last layer and no hidden state of a prefix is read, so that
            the attention output of prefix tokens need not be computed.
    """

    scale: float
    window: int | None
    last_layer: bool = False


class Layout(ABC):
    """Attention pattern of a packed batch."""

    @abstractmethod
    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams
    ) -> Tensor:
        """Attention output of every packed token.

        Args:
            layer: index of the layer.
            query: [S, H, Dh].
            key: [S, K, Dh], K dividing H.
            value: [S, K, Dh].
            params: scale, window, and whether prefixes may be skipped.

        Returns:
            [S, H, Dh]; zeros for prefixes that are skipped.
        """


class CausalRows(Layout):
    """Causal attention inside each row; rows do not attend to one another.

    Args:
        spans: where each of the B rows lies in the S tokens.
    """

    def __init__(self, spans: Spans) -> None:
        self.spans = spans

    @property
    def lengths(self) -> Tensor | None:
        """[B] int64, tokens of each row; None if all rows are equally long."""
        return None if self.spans.equal_lengths else self.spans.lengths

    def pad(self, flat: Tensor) -> Tensor:
        """Pad flat tokens [S, H, Dh] to rows [B, H, T, Dh]; zeros past each row's end."""
        if self.spans.equal_lengths:  # when decoding, einops takes twice the time of these views
            rows: Tensor = flat.unflatten(0, (len(self.spans), -1))
            return rows.transpose(1, 2)
        return rearrange(scatter_spans(flat, self._spans_on(flat)), "b t h d -> b h t d")

    def flatten(self, padded: Tensor) -> Tensor:
        """Undo `pad`: rows [B, H, T, Dh] to flat tokens [S, H, Dh]."""
        if self.spans.equal_lengths:
            return padded.transpose(1, 2).flatten(0, 1)
        return gather_spans(rearrange(padded, "b h t d -> b t h d"), None, self._spans_on(padded))

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams
    ) -> Tensor:
        """Causal attention inside each row."""
        q, k, v = (self.pad(x) for x in (query, key, value))
        return self.flatten(_causal(q, k, v, params))

    def _spans_on(self, tensor: Tensor) -> Spans:
        """The spans on the device of a tensor, moved once."""
        if self.spans.offsets.device != tensor.device:
            self.spans = self.spans.to(tensor.device)
        return self.spans


class CacheTarget(NamedTuple):
    """Rows and columns of a KV cache that keys and values of packed tokens are written to.

    Attributes:
        cache: the KV cache.
        token_idx: [M] int64, the packed tokens that are written.
        rows: [M] int64, row of the cache for each of them.
        columns: [M] int64, column of the cache for each of them.
    """

    cache: KVCache
    token_idx: Tensor
    rows: Tensor
    columns: Tensor

    def to(self, device: torch.device) -> "CacheTarget":
        """Move the indices to another device."""
        return CacheTarget(
            self.cache, self.token_idx.to(device), self.rows.to(device), self.columns.to(device)
        )


@dataclass(frozen=True, eq=False)
class CacheFill(Layout):
    """A wrapped layout whose keys and values are also written to a KV cache.

    Attributes:
        layout: attention pattern of the S tokens.
        target: where their keys and values are written.
    """

    layout: Layout
    target: CacheTarget

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams
    ) -> Tensor:
        """Write keys and values to the cache, then attend by the wrapped layout."""
        cache, token_idx, rows, columns = self.target
        cache.write(layer, key[token_idx], value[token_idx], rows, columns)
        if params.last_layer:
            return torch.zeros_like(query)
        return self.layout.attend(layer, query, key, value, params)


@dataclass(frozen=True, eq=False)
class SharedPrefix(Layout):
    """Distinct prefixes, then the rows that continue them and attend to their prefix too.

    Attributes:
        prefixes: the g prefixes, first in the packed tokens.
        rows: the B rows, after them.
        groups: which prefix each row continues.
    """

    prefixes: CausalRows
    rows: CausalRows
    groups: PrefixGroups

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams
    ) -> Tensor:
        """Causal attention in prefixes, and in rows after their prefix."""
        sizes = self.prefixes.spans.num_tokens, self.rows.spans.num_tokens
        parts = [x.split(sizes) for x in (query, key, value)]  # cheaper backward than two slices
        prefix_query, prefix_key, prefix_value = (self.prefixes.pad(x) for x, _ in parts)
        row_query, row_key, row_value = (self.rows.pad(x) for _, x in parts)
        rows = shared_prefix_attention(
            row_query,
            row_key,
            row_value,
            prefix_key,
            prefix_value,
            self.groups,
            self.prefixes.lengths,
            scale=params.scale,
            window=params.window,
        )
        if params.last_layer:
            prefixes = torch.zeros_like(parts[0][0])
        else:
            prefixes = self.prefixes.flatten(
                _causal(prefix_query, prefix_key, prefix_value, params)
            )
        return torch.cat([prefixes, self.rows.flatten(rows)])


@dataclass(frozen=True, eq=False)
class CachedPrefix(Layout):
    """Rows that continue prefixes in a KV cache.

    Attributes:
        rows: the B rows of packed tokens.
        prefix: keys and values of the prefixes.
        groups: which prefix each row continues.
        suffix: keys and values of the earlier tokens of each row after its prefix; the packed
            tokens are appended. None: the packed tokens are the first.
    """

    rows: CausalRows
    prefix: KVCache
    groups: PrefixGroups
    suffix: KVCache | None = None

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams
    ) -> Tensor:
        """Attention to the cached prefix and to the row so far."""
        q, k, v = (self.rows.pad(x) for x in (query, key, value))
        if self.suffix is not None:
            k, v = self.suffix.append(layer, k, v)
        prefix_key, prefix_value = self.prefix.layer(layer)
        output = shared_prefix_attention(
            q.to(prefix_key.dtype),
            k,
            v,
            prefix_key,
            prefix_value,
            self.groups,
            self.prefix.lengths,
            scale=params.scale,
            window=params.window,
            column=None if self.suffix is None else self.suffix.column,
        )
        return self.rows.flatten(output.to(query.dtype))


def _causal(query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
    """Causal attention [B, H, T, Dh] of padded rows, with grouped-query attention."""
    length, heads_per_key = query.shape[2], query.shape[1] // key.shape[1]
    if heads_per_key > 1:
        key, value = (x.repeat_interleave(heads_per_key, dim=1) for x in (key, value))
    if params.window is None or params.window >= length:
        return causal_attention(query, key, value, params.scale)
    mask = sliding_window_mask(length, length, params.window, query.device)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=params.scale)
