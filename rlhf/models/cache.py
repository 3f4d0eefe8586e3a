"""Keys and values of tokens already read: room for decoding, and prompts kept for many passes.

A layer's keys and values are [B, H, S, Dh], each row's last prompt token in one column.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from rlhf.types import PromptBatch

GIB = 2**30


class PromptCache(Cache):  # type: ignore[misc]
    """What was read of B prompts, on the left of their column `width`, and room for more tokens.

    To append a token copies nothing that is there already. Beside prompts shorter than `width`
    are zeros, which the attention mask hides.

    Args:
        layers: of the language model.
        rows: B.
        width: tokens of the longest prompt.
        room: tokens that may follow.
    """

    def __init__(self, layers: int, rows: int, width: int, room: int = 0) -> None:
        super().__init__(layers=[_Room(rows, width, room) for _ in range(layers)])
        self.width = width

    def piece(self, rows: Tensor) -> Cache:
        """An empty cache; the prompts that are read into it are these rows."""
        return Cache(layers=[_Piece(layer, rows) for layer in self.layers])

    def fixed(self) -> Cache:
        """A cache that a forward reads and leaves as it is, so that a layer can run twice."""
        return Cache(layers=[_Fixed(layer.keys, layer.values) for layer in self.layers])

    def row(self, row: int, length: int) -> Tensor:
        """[L, 2, H, length, Dh], a copy of what was read of one prompt."""
        own = slice(self.width - length, self.width)
        layers = [(layer.keys[row, :, own], layer.values[row, :, own]) for layer in self.layers]
        return torch.stack([torch.stack(pair) for pair in layers])

    def row_bytes(self, length: int) -> int:
        """Of what `row` gives."""
        layers = [(x.keys[0, :, :length], x.values[0, :, :length]) for x in self.layers]
        return sum(keys.nbytes + values.nbytes for keys, values in layers)

    def put(self, row: int, kept: Tensor) -> None:
        """Write what `row` gave, of this prompt or an equal one."""
        where = torch.tensor([row])
        for layer, (keys, values) in zip(self.layers, kept, strict=True):
            layer.write(where, keys.unsqueeze(0), values.unsqueeze(0))

    def keep(self, rows: Tensor) -> None:
        """Let go of all rows but these [K]."""
        for layer in self.layers:
            layer.keys, layer.values, layer.rows = layer.keys[rows], layer.values[rows], len(rows)


@dataclass(frozen=True)
class DecodeState:
    """What decoding one more token needs: the keys and values and the mask [B, P+t] over them."""

    cache: PromptCache
    mask: Tensor

    def select(self, rows: Tensor) -> "DecodeState":
        """The same of these rows [K] only; the others' memory is given back."""
        rows = rows.to(self.mask.device)
        self.cache.keep(rows)
        return DecodeState(self.cache, self.mask[rows])


class Prefixes:
    """Keys and values of prompts under the bare trunk, by prompt; first come, first kept.

    Passes come round in cycles, in which dropping the oldest would drop each just before its use.

    Args:
        limit: GiB that are kept; what goes beyond is computed anew each time.
    """

    def __init__(self, limit: float = 4.0) -> None:
        self.limit = limit
        self.bytes = 0
        self._kept: dict[Any, Tensor] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def fill(
        self, cache: PromptCache, prompts: PromptBatch, read: Callable[[Tensor], object]
    ) -> None:
        """Give `cache` all prompts: what is kept, and the others by `read`, each of them once.

        Args:
            cache: of these prompts, still empty.
            prompts: B prompts.
            read: reads the prompts of the rows [b] it is given into `cache`.
        """
        keys, lengths = _keys(prompts), prompts.spans.lengths.tolist()
        first = {key: row for row, key in reversed([*enumerate(keys)])}
        unread = sorted(row for key, row in first.items() if key not in self._kept)
        if unread:
            read(torch.tensor(unread))
        for row in sorted({*range(len(keys))} - {*unread}):
            kept = self._kept.get(keys[row])
            cache.put(row, cache.row(first[keys[row]], lengths[row]) if kept is None else kept)
        for row in unread:
            size = cache.row_bytes(lengths[row])
            if self.bytes + size <= self.limit * GIB:
                self._kept[keys[row]] = cache.row(row, lengths[row])
                self.bytes += size

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0


def _keys(prompts: PromptBatch) -> list[tuple[tuple[Path, ...], bytes]]:
    """What tells prompts apart: their pictures and their tokens."""
    rows = prompts.tokens.split(prompts.spans.lengths.tolist())
    return [(own, row.numpy().tobytes()) for own, row in zip(prompts.images, rows, strict=True)]


class _Room(DynamicLayer):  # type: ignore[misc]
    """One layer of a PromptCache."""

    is_initialized: bool

    def __init__(self, rows: int, width: int, room: int) -> None:
        super().__init__()
        self.rows, self.width, self.size, self.filled = rows, width, width + room, width

    def write(self, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Prompts [b, H, w, Dh] into these rows, on the left of the column `width`."""
        if not self.is_initialized:
            shape = (self.rows, keys.shape[1], self.size, keys.shape[3])
            self.keys, self.values = keys.new_zeros(shape), values.new_zeros(shape)
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        rows, start = rows.to(keys.device), self.width - keys.shape[2]
        self.keys[rows, :, start : self.width] = keys
        self.values[rows, :, start : self.width] = values

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start, self.filled = self.filled, self.filled + keys.shape[2]
        self.keys[:, :, start : self.filled] = keys
        self.values[:, :, start : self.filled] = values
        return self.keys[:, :, : self.filled], self.values[:, :, : self.filled]

    def get_seq_length(self) -> int:
        return self.filled


class _Piece(DynamicLayer):  # type: ignore[misc]
    """One layer of `PromptCache.piece`: hands on what it is given, after writing it down."""

    def __init__(self, whole: _Room, rows: Tensor) -> None:
        super().__init__()
        self.whole, self.of = whole, rows

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.whole.write(self.of, keys, values)
        return keys, values


class _Fixed(DynamicLayer):  # type: ignore[misc]
    """One layer of `PromptCache.fixed`."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
