"""Records to batches of ids, and batches to pieces that fit into memory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rlhf.data.encoders import Encoder
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
    records: Sequence[Record], builder: Encoder, root: Path, *, max_tokens: int
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


def prompts_like(prompts: PromptBatch, builder: Encoder) -> PromptBatch:
    """The same prompts, encoded by another model's builder."""
    rows = [builder.prompt_ids(text) for text in prompts.instructions]
    spans = Spans.from_lengths([len(row) for row in rows])
    return replace(prompts, tokens=_flat(rows), spans=spans)


def response_batch(texts: Sequence[str], builder: Encoder) -> Responses:
    """Finished responses as written by a person or kept in a file."""
    rows = [builder.response_ids(text) for text in texts]
    spans = Spans.from_lengths([len(row) for row in rows])
    return Responses(_flat(rows), spans, torch.ones(len(rows), dtype=torch.bool))


def preference_batch(
    records: Sequence[PreferenceRecord], builder: Encoder, root: Path, *, max_tokens: int
) -> PreferenceBatch:
    """Pairs; of a tie, response_a stands as chosen, with the label 0.5."""
    texts = [ordered_responses(record) for record in records]
    ties = torch.tensor([record.preference == "tie" for record in records], dtype=torch.bool)
    return PreferenceBatch(
        prompt_batch(records, builder, root, max_tokens=max_tokens),
        response_batch([first for first, _ in texts], builder),
        response_batch([second for _, second in texts], builder),
        torch.where(ties, 0.5, 1.0),
    )


def ordered_responses(record: PreferenceRecord) -> tuple[str, str]:
    """Chosen and rejected; response_a and response_b of a tie."""
    if record.preference == "tie":
        return record.response_a, record.response_b
    return chosen(record), rejected(record)


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
