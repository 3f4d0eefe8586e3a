"""Pack prompts to prefill a KV cache, a bounded number of tokens at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rlhf.data.microbatching import pack_to_budget
from rlhf.models.packed.kv_cache import KVCache
from rlhf.models.packed.layouts import CacheTarget
from rlhf.models.packed.packing import PackedBatch, pack_prompts
from rlhf.models.packed.prefix_sharing import PrefixSplit, image_prefix_lens
from rlhf.types import PromptBatch


def pack_into_cache(
    prompts: PromptBatch, rows: Tensor, cache: KVCache, image_token_id: int, max_tokens: int
) -> Iterator[tuple[PackedBatch, CacheTarget]]:
    """Pack prompts for their rows of a KV cache; an image of several prompts is packed once.

    Args:
        prompts: B prompts.
        rows: [b] int64, increasing, the prompts to pack.
        cache: KV cache with a row for each of the B prompts.
        image_token_id: the placeholder of image features.
        max_tokens: most prompt tokens of a packed batch, which holds at least one prompt.

    Yields:
        A packed batch, and where its keys and values are written.
    """
    lengths = prompts.spans.lengths[rows].tolist()
    images = [prompts.images[row] for row in rows.tolist()]
    for chunk in pack_to_budget(lengths, max_tokens, images):
        chunk_rows = rows[torch.tensor(chunk)]
        selected = prompts.select(chunk_rows)
        prefix_lens = image_prefix_lens(selected, image_token_id)
        split = None if prefix_lens is None else PrefixSplit.at(selected, prefix_lens)
        packed, token_idx = pack_prompts(selected, split)
        spans = selected.spans
        cache_rows = chunk_rows[spans.segment_ids]
        yield packed, CacheTarget(cache, token_idx, cache_rows, spans.positions)
