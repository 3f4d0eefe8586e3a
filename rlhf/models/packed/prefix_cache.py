"""A prefix cache: keys and values of prompt prefixes that later passes reuse."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf.config.schema import GIB
from rlhf.models.packed.kv_cache import KVCache
from rlhf.models.packed.prefix_sharing import prefix_cache_keys
from rlhf.types import PromptBatch


class PrefixCache:
    """Keys and values of prompt prefixes under the base model; a full cache evicts nothing.

    Every pass visits the prompts in turn, so an LRU cache would evict each prefix just before its
    next use.

    Args:
        limit: size of the cache, GiB; prefixes that do not fit are computed in every pass.
    """

    def __init__(self, limit: float = 4.0) -> None:
        self.limit = limit
        self.bytes = 0
        self._rows: dict[object, Tensor] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def fill(
        self, cache: KVCache, prompts: PromptBatch, compute: Callable[[Tensor], object]
    ) -> None:
        """Fill a KV cache with prompts; those not in the prefix cache are computed and added to it.

        Args:
            cache: empty KV cache with a row for each prompt.
            prompts: B distinct prompts.
            compute: called with rows [b] int64; runs their prompts and fills those cache rows.
        """
        keys, lengths = prefix_cache_keys(prompts), prompts.spans.lengths.tolist()
        missing = [row for row, key in enumerate(keys) if key not in self._rows]
        if missing:
            compute(torch.tensor(missing))
        for row in sorted({*range(len(keys))} - {*missing}):
            cache.import_row(row, self._rows[keys[row]])
        for row in missing:
            size = cache.row_bytes(lengths[row])
            if self.bytes + size <= self.limit * GIB:
                self._rows[keys[row]] = cache.export_row(row, lengths[row])
                self.bytes += size

    def clear(self) -> None:
        """Drop all entries."""
        self._rows.clear()
        self.bytes = 0
