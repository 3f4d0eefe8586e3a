"""Keys and values of tokens already read: room for decoding, and prompts kept for many passes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.config.schema import GIB
from rlhf.kernels.prefix_groups import PrefixGroups
from rlhf.models.packed.prefix_sharing import prefix_cache_keys
from rlhf.spans import Spans
from rlhf.types import PromptBatch


class KVCache:
    """Keys and values [B, H, S, Dh] of each layer, each row's first token in column 0.

    A layer's memory is taken at its first write; to append a token copies nothing.

    Args:
        layers: of the language model.
        rows: B.
        size: S, tokens of the longest row.
        lengths: [B] tokens of each row, where they differ: the rest is never seen.
        wide: hold them in float32 at least. One token that looks back costs a CPU a quarter of
            the time then, and its products are not rounded.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        size: int,
        lengths: Tensor | None = None,
        *,
        upcast: bool = False,
    ) -> None:
        self.rows, self.size, self.lengths, self.upcast = rows, size, lengths, upcast
        self.source_dtype: torch.dtype | None = None  # of what was written
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self.filled = [0] * layers

    @staticmethod
    def for_rows(layers: int, spans: Spans, device: torch.device, *, upcast: bool) -> "KVCache":
        """Room for rows of these lengths."""
        even = spans.num_tokens == len(spans) * spans.max_len
        lengths = None if even else spans.lengths.to(device)
        return KVCache(layers, len(spans), spans.max_len, lengths, upcast=upcast)

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer."""
        found = self.layers[layer]
        assert found is not None
        return found

    def write(
        self, layer: int, keys: Tensor, values: Tensor, rows: Tensor, columns: Tensor
    ) -> None:
        """Tokens [M, H, Dh], each into its row [M] and column [M]."""
        for room, new in zip(self._room(layer, keys), (keys, values), strict=True):
            room[rows, :, columns] = new.to(room.dtype)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All that is there with the next tokens [B, H, t, Dh] of every row.

        Raises:
            ValueError: there is no room for them.
        """
        start, end = self.filled[layer], self.filled[layer] + keys.shape[2]
        if end > self.size:
            raise ValueError(f"keys: got {end} tokens a row, wanted at most {self.size}")
        room = self._room(layer, keys)
        for own, new in zip(room, (keys, values), strict=True):
            own[:, :, start:end] = new
        self.filled[layer] = end
        return room[0][:, :, :end], room[1][:, :, :end]

    def _room(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        found = self.layers[layer]
        if found is None:
            self.source_dtype = like.dtype
            held = torch.promote_types(like.dtype, torch.float32) if self.upcast else like.dtype
            shape = (self.rows, like.shape[1], self.size, like.shape[-1])
            room = (like.new_zeros(shape, dtype=held), like.new_zeros(shape, dtype=held))
            found = self.layers[layer] = room
        return found

    def export_row(self, row: int, length: int) -> Tensor:
        """[L, 2, H, length, Dh], a copy of what was read of one row, as it was given."""
        layers = [self.layer(layer) for layer in range(len(self.layers))]
        held = torch.stack([torch.stack([x[row, :, :length] for x in pair]) for pair in layers])
        return held.to(self.source_dtype)

    def row_bytes(self, length: int) -> int:
        """Of what `row` gives."""
        assert self.source_dtype is not None
        numbers = sum(x[0, :, :length].numel() for pair in self.layers if pair for x in pair)
        return numbers * self.source_dtype.itemsize

    def import_row(self, row: int, kept: Tensor) -> None:
        """Write what `row` gave, of this prompt or an equal one."""
        for layer, (keys, values) in enumerate(kept.transpose(2, 3)):
            columns = torch.arange(len(keys), device=keys.device)
            self.write(layer, keys, values, torch.full_like(columns, row), columns)

    def select(self, rows: Tensor) -> "KVCache":
        """These rows [K] only; a new copy."""
        lengths = None if self.lengths is None else self.lengths[rows]
        chosen = KVCache(len(self.layers), len(rows), self.size, lengths, upcast=self.upcast)
        chosen.filled, chosen.source_dtype = [*self.filled], self.source_dtype
        for layer, pair in enumerate(self.layers):
            if pair is not None:
                at = rows.to(pair[0].device)
                chosen.layers[layer], self.layers[layer] = (pair[0][at], pair[1][at]), None
        return chosen


@dataclass(frozen=True, eq=False)
class DecodeState:
    """What decoding one more token of every row needs.

    Attributes:
        prompts: read once each, however many rows continue them.
        own: what was read of the rows after their prompts.
        groups: whose prompt each row continues.
        positions: [B] of the next token in its row.
    """

    prefix: KVCache
    suffix: KVCache
    groups: PrefixGroups
    positions: Tensor

    def select(self, rows: Tensor) -> "DecodeState":
        """The same of these rows [K] only; the memory of the others is given back."""
        groups, used = self.groups.select(rows)
        all_used = len(used) == self.prefix.rows
        return DecodeState(
            self.prefix if all_used else self.prefix.select(used),
            self.suffix.select(rows),
            groups,
            self.positions[rows.to(self.positions.device)],
        )


class PrefixCache:
    """Keys and values of prompts under the bare trunk, by prompt; first come, first kept.

    Passes come round in cycles, in which dropping the oldest would drop each just before its use.

    Args:
        limit: GiB that are kept; what goes beyond is computed anew each time.
    """

    def __init__(self, limit: float = 4.0) -> None:
        self.limit = limit
        self.bytes = 0
        self._kept: dict[object, Tensor] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def fill(self, cache: KVCache, prompts: PromptBatch, read: Callable[[Tensor], object]) -> None:
        """Give `cache` all prompts: what is kept, and the others by `read`.

        Args:
            cache: of these prompts, still empty.
            prompts: B prompts, all different.
            read: reads the prompts of the rows [b] it is given into `cache`.
        """
        keys, lengths = prefix_cache_keys(prompts), prompts.spans.lengths.tolist()
        unread = [row for row, key in enumerate(keys) if key not in self._kept]
        if unread:
            read(torch.tensor(unread))
        for row in sorted({*range(len(keys))} - {*unread}):
            cache.import_row(row, self._kept[keys[row]])
        for row in unread:
            size = cache.row_bytes(lengths[row])
            if self.bytes + size <= self.limit * GIB:
                self._kept[keys[row]] = cache.export_row(row, lengths[row])
                self.bytes += size

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0
