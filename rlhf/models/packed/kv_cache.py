"""A KV cache whose memory is allocated once, and the state of a batch that is being decoded."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from rlhf.kernels.prefix_groups import PrefixGroups
from rlhf.spans import Spans


class KVCache:
    """Keys and values [B, K, T, Dh] of every layer; the first token of a row is in column 0.

    A layer's memory is allocated at its first write. Appending a token does not copy the cache.

    Args:
        num_layers: layers of the language model.
        rows: B.
        size: T, tokens of the longest row.
        lengths: [B] int64, tokens of each row, later columns are masked; None: all rows are full.
        upcast: store keys and values in float32 at least. Attention of a single query on a CPU then
            takes a quarter of the time, and its products are not rounded.

    Attributes:
        column: [1] int64 on the device, the column that `append` writes to; None: the next one.
    """

    def __init__(
        self,
        num_layers: int,
        rows: int,
        size: int,
        lengths: Tensor | None = None,
        *,
        upcast: bool = False,
    ) -> None:
        self.rows, self.size, self.lengths, self.upcast = rows, size, lengths, upcast
        self.source_dtype: torch.dtype | None = None  # of the keys and values before upcasting
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * num_layers
        self.filled = [0] * num_layers
        self.column: Tensor | None = None

    @staticmethod
    def for_rows(num_layers: int, spans: Spans, device: torch.device, *, upcast: bool) -> "KVCache":
        """Create an empty cache with one row for each span.

        Args:
            num_layers: layers of the language model.
            spans: lengths of the rows.
            device: device of the lengths.
            upcast: store keys and values in float32 at least.
        """
        lengths = None if spans.equal_lengths else spans.lengths.to(device)
        return KVCache(num_layers, len(spans), spans.max_len, lengths, upcast=upcast)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each [B, K, T, Dh]; the layer must have been written to."""
        pair = self.layers[index]
        assert pair is not None
        return pair

    def write(
        self, layer: int, keys: Tensor, values: Tensor, rows: Tensor, columns: Tensor
    ) -> None:
        """Write keys and values of tokens to the given rows and columns of a layer.

        Args:
            layer: index of the layer.
            keys: [M, K, Dh].
            values: [M, K, Dh].
            rows: [M] int64, row of each token.
            columns: [M] int64, column of each token.
        """
        for target, tokens in zip(self._allocated(layer, keys), (keys, values), strict=True):
            target[rows, :, columns] = tokens.to(target.dtype)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values of the next t tokens of every row to a layer.

        Args:
            layer: index of the layer.
            keys: [B, K, t, Dh]; t is 1 after `fix_shapes`.
            values: [B, K, t, Dh].

        Returns:
            Keys and values of the layer so far, each [B, K, T', Dh], as views; after `fix_shapes`
            of all T columns.

        Raises:
            ValueError: the rows would be longer than `size`.
        """
        if self.column is not None:
            for target, tokens in zip(self.layer(layer), (keys, values), strict=True):
                target.index_copy_(2, self.column, tokens.to(target.dtype))
            return self.layer(layer)
        start, end = self.filled[layer], self.filled[layer] + keys.shape[2]
        if end > self.size:
            raise ValueError(f"keys: got {end} tokens a row, wanted at most {self.size}")
        targets = self._allocated(layer, keys)
        for target, tokens in zip(targets, (keys, values), strict=True):
            target[:, :, start:end] = tokens
        self.filled[layer] = end
        return targets[0][:, :, :end], targets[1][:, :, :end]

    def fix_shapes(self) -> None:
        """Let `append` write to `column`, which the caller moves on, at the same shapes each time.

        The column is the next one at first. Every layer must have been written to.
        """
        self.column = self.layer(0)[0].new_full((1,), self.filled[0], dtype=torch.int64)

    def _allocated(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, allocated at first use with the heads and dtype of `like`."""
        pair = self.layers[layer]
        if pair is None:
            self.source_dtype = like.dtype
            upcast_dtype = torch.promote_types(like.dtype, torch.float32)
            dtype = upcast_dtype if self.upcast else like.dtype
            shape = (self.rows, like.shape[1], self.size, like.shape[-1])
            pair = (like.new_zeros(shape, dtype=dtype), like.new_zeros(shape, dtype=dtype))
            self.layers[layer] = pair
        return pair

    def export_row(self, row: int, length: int) -> Tensor:
        """Copy the first `length` tokens of a row: [L, 2, K, length, Dh], in the source dtype."""
        layers = [self.layer(index) for index in range(len(self.layers))]
        copied = torch.stack([torch.stack([x[row, :, :length] for x in pair]) for pair in layers])
        return copied.to(self.source_dtype)

    def row_bytes(self, length: int) -> int:
        """Bytes of the tensor that `export_row` returns for a row of this length."""
        assert self.source_dtype is not None
        numel = sum(x[0, :, :length].numel() for pair in self.layers if pair for x in pair)
        return numel * self.source_dtype.itemsize

    def import_row(self, row: int, exported: Tensor) -> None:
        """Write a row [L, 2, K, length, Dh] that `export_row` returned, of the same prompt."""
        for layer, pair in enumerate(exported):
            keys, values = rearrange(pair, "kv k t d -> kv t k d")
            columns = torch.arange(len(keys), device=keys.device)
            self.write(layer, keys, values, torch.full_like(columns, row), columns)

    def select(self, rows: Tensor) -> "KVCache":
        """Move the rows [K] to a new cache; this cache is emptied layer by layer to save memory."""
        lengths = None if self.lengths is None else self.lengths[rows]
        selected = KVCache(len(self.layers), len(rows), self.size, lengths, upcast=self.upcast)
        selected.filled, selected.source_dtype = [*self.filled], self.source_dtype
        selected.column = self.column
        for layer, pair in enumerate(self.layers):
            if pair is not None:
                index = rows.to(pair[0].device)
                selected.layers[layer], self.layers[layer] = (pair[0][index], pair[1][index]), None
        return selected


@dataclass(frozen=True, eq=False)
class DecodeState:
    """KV caches and positions from which every sequence is decoded by one more token.

    Attributes:
        prefix: KV cache of the distinct prefixes; several sequences may continue one prefix.
        suffix: KV cache of the tokens of each sequence after its prefix.
        groups: which prefix each sequence continues.
        positions: [B] int64, position of the next token in its sequence.
    """

    prefix: KVCache
    suffix: KVCache
    groups: PrefixGroups
    positions: Tensor

    def select(self, rows: Tensor) -> "DecodeState":
        """Keep the sequences `rows` [K] only and free the memory of the others."""
        groups, used = self.groups.select(rows)
        all_used = len(used) == self.prefix.rows
        return DecodeState(
            self.prefix if all_used else self.prefix.select(used),
            self.suffix.select(rows),
            groups,
            self.positions[rows.to(self.positions.device)],
        )
