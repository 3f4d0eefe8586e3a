"""Pack prompts and responses end to end: pure index arithmetic, no model."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rlhf.kernels.prefix_groups import PrefixGroups
from rlhf.models.packed.prefix_sharing import PrefixSplit, Sharing
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Token sequences packed end to end: g shared prefixes, then B rows.

    A row is the part of a sequence after its prefix (rest of the prompt, then response), or the
    whole sequence where nothing is shared. The S packed tokens are the tokens of the prefixes,
    unless these are cached, and then the tokens of the rows.

    Attributes:
        prefixes: g distinct prompt prefixes; None where rows are whole sequences.
        cached: whether keys and values of the prefixes come from a KV cache.
        row_tokens: [R] int64, token ids of all rows.
        rows: where each of the B rows lies in the R tokens.
        row_images: images of each row, in the order of their placeholders; None: rows are text.
        groups: which prefix each row continues; None where rows are whole sequences.
        positions: [S] int64, position of each packed token in its own sequence.
        output_idx: [N] int64, the packed tokens whose hidden states are returned.
    """

    prefixes: PromptBatch | None
    cached: bool
    row_tokens: Tensor
    rows: Spans
    row_images: tuple[tuple[Path, ...], ...] | None
    groups: PrefixGroups | None
    positions: Tensor
    output_idx: Tensor


def pack(
    prompts: PromptBatch,
    responses: Responses,
    sharing: Sharing | None,
    *,
    include_last: bool,
) -> PackedBatch:
    """Pack prompts with their responses, to get the hidden states that predict response tokens.

    Args:
        prompts: B prompts.
        responses: B responses, N tokens in all.
        sharing: which prefixes are packed once, or cached; None: rows are whole sequences.
        include_last: also pack the last token of each response, which predicts no other token, and
            return its hidden state.

    Returns:
        A batch with N outputs, the hidden state before each response token; with `include_last`
        followed by B outputs, the hidden state of each response's last token.

    Raises:
        ValueError: a response contains the placeholder of an image, or a prompt ends with one.
    """
    if sharing is not None and bool((responses.tokens == sharing.image_token_id).any()):
        raise ValueError(f"responses: got {sharing.image_token_id}, the placeholder of an image")
    spans = responses.spans
    response_lens = spans.lengths if include_last else spans.lengths - 1
    is_packed = spans.positions < response_lens[spans.segment_ids]
    split = None if sharing is None else sharing.split(prompts)
    cached = sharing is not None and sharing.cached_before is not None
    batch = _pack_rows(prompts, split, responses.tokens.cpu()[is_packed], response_lens, cached)
    rows = batch.rows
    head_lens = rows.lengths - response_lens
    predicts = rows.positions >= head_lens[rows.segment_ids] - 1
    last_idx = rows.offsets[1:] - 1
    if include_last:
        predicts[last_idx] = False
    output_idx = predicts.nonzero().squeeze(1)
    if include_last:
        output_idx = torch.cat([output_idx, last_idx])
    first_row_token = len(batch.positions) - len(batch.row_tokens)
    return replace(batch, output_idx=output_idx + first_row_token)


def pack_prompts(prompts: PromptBatch, split: PrefixSplit | None) -> tuple[PackedBatch, Tensor]:
    """Pack prompts alone, to fill a KV cache with them.

    Args:
        prompts: B prompts, M tokens in all.
        split: how prompts are split into prefixes and suffixes; None: rows are whole sequences.

    Returns:
        The batch, with only one output, and [M] int64, the packed token of each prompt token.
    """
    no_tokens = prompts.tokens[:0]
    batch = _pack_rows(prompts, split, no_tokens, torch.zeros_like(prompts.spans.lengths))
    if split is None:
        return batch, torch.arange(prompts.spans.num_tokens)
    spans, prefix_spans = prompts.spans, split.prefixes.spans
    from_suffix = spans.positions - split.prefix_lens[spans.segment_ids]
    in_prefix = prefix_spans.offsets[split.groups.prefix_ids[spans.segment_ids]] + spans.positions
    in_row = prefix_spans.num_tokens + batch.rows.offsets[spans.segment_ids] + from_suffix
    return batch, torch.where(from_suffix < 0, in_prefix, in_row)


def pack_step(tokens: Tensor, positions: Tensor, groups: PrefixGroups) -> PackedBatch:
    """Pack the next T tokens of sequences in KV caches; the output is the last token's.

    Args:
        tokens: [B, T] int64, the next tokens of each sequence.
        positions: [B] int64, position of the first of them in its sequence, on the model's device.
        groups: which cached prefix each sequence continues.
    """
    count, length = tokens.shape
    steps = positions.unsqueeze(1) + torch.arange(length, device=positions.device)
    return PackedBatch(
        prefixes=None,
        cached=True,
        row_tokens=tokens.flatten(),
        rows=Spans.from_lengths([length] * count),
        row_images=None,
        groups=groups,
        positions=steps.flatten(),
        output_idx=torch.arange(1, count + 1) * length - 1,
    )


def _pack_rows(
    prompts: PromptBatch,
    split: PrefixSplit | None,
    tokens: Tensor,
    lengths: Tensor,
    cached: bool = False,
) -> PackedBatch:
    """Pack rows of a prompt (if split, its suffix) and the next `lengths` [B] of `tokens`."""
    if split is None:
        heads, head_lens = prompts.tokens, prompts.spans.lengths
    else:
        heads, head_lens = split.suffix_tokens, split.suffix_lens
    rows = Spans.from_lengths(head_lens + lengths)
    in_head = rows.positions < head_lens[rows.segment_ids]
    row_tokens = torch.empty_like(in_head, dtype=torch.int64)
    row_tokens[in_head], row_tokens[~in_head] = heads, tokens
    positions = rows.positions
    if split is not None:
        positions = positions + split.prefix_lens[rows.segment_ids]
    if split is not None and not cached:
        positions = torch.cat([split.prefixes.spans.positions, positions])
    return PackedBatch(
        prefixes=None if split is None else split.prefixes,
        cached=cached,
        row_tokens=row_tokens,
        rows=rows,
        row_images=prompts.images if split is None else None,
        groups=None if split is None else split.groups,
        positions=positions,
        output_idx=torch.tensor([0]),
    )
