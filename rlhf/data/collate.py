"""Records to batches of ids, and batches to pieces that fit into memory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rlhf.data.prompts import PromptBuilder
from rlhf.data.records import (
    CandidatesRecord,
    DemonstrationRecord,
    PreferenceRecord,
    PromptRecord,
    chosen,
    prompt_key,
    rejected,
    resolve_image,
)
from rlhf.errors import DataError
from rlhf.spans import Spans
from rlhf.types import PreferenceBatch, PromptBatch, Responses

Record = PromptRecord | DemonstrationRecord | CandidatesRecord | PreferenceRecord


def prompt_batch(
    records: Sequence[Record], builder: PromptBuilder, root: Path, *, max_tokens: int
) -> PromptBatch:
    """The prompts of `records`, one picture each.

    Raises:
        DataError: a prompt longer than `max_tokens`, or a picture outside `root`.
    """
    rows = [builder.prompt_ids(record.instruction) for record in records]
    for record, row in zip(records, rows, strict=True):
        if len(row) > max_tokens:
            raise DataError(
                f"the prompt has {len(row)} tokens, the limit is {max_tokens}",
                f"{record.image_path}: {record.instruction[:60]!r}",
                "shorten the instruction or raise data.max_prompt_tokens",
            )
    return PromptBatch(
        tokens=_flat(rows),
        spans=Spans.from_lengths([len(row) for row in rows]),
        images=tuple((resolve_image(record.image_path, root),) for record in records),
        keys=torch.tensor([prompt_key(record) for record in records], dtype=torch.int64),
        instructions=tuple(record.instruction for record in records),
    )


def prompts_like(prompts: PromptBatch, builder: PromptBuilder) -> PromptBatch:
    """The same prompts, encoded by another model's builder."""
    rows = [builder.prompt_ids(text) for text in prompts.instructions]
    spans = Spans.from_lengths([len(row) for row in rows])
    return replace(prompts, tokens=_flat(rows), spans=spans)


def response_batch(texts: Sequence[str], builder: PromptBuilder) -> Responses:
    """Finished responses as written by a person or kept in a file."""
    rows = [builder.response_ids(text) for text in texts]
    spans = Spans.from_lengths([len(row) for row in rows])
    return Responses(_flat(rows), spans, torch.ones(len(rows), dtype=torch.bool))


def preference_batch(
    records: Sequence[PreferenceRecord], builder: PromptBuilder, root: Path, *, max_tokens: int
) -> PreferenceBatch:
    """Decided pairs; ties carry no order and are left out by the caller."""
    return PreferenceBatch(
        prompt_batch(records, builder, root, max_tokens=max_tokens),
        response_batch([chosen(record) for record in records], builder),
        response_batch([rejected(record) for record in records], builder),
    )


def microbatches(lengths: Tensor, max_tokens: int) -> list[Tensor]:
    """Rows grouped so that rows x longest row is at most `max_tokens` (one row at the least).

    Rows of like length go together; every row appears once.

    Args:
        lengths: [B] tokens of each row.
        max_tokens: padded tokens of one group.
    """
    groups: list[list[int]] = []
    widths, order = lengths.sort(stable=True)
    for row, width in zip(order.tolist(), widths.tolist(), strict=True):
        if groups and (len(groups[-1]) + 1) * width <= max_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [torch.tensor(group, dtype=torch.int64) for group in groups]


def _flat(rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([token for row in rows for token in row], dtype=torch.int64)
