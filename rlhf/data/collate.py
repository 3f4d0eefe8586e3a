"""Encode records as batches of token ids."""

from collections.abc import Sequence
from pathlib import Path

import torch

from rlhf.data.prompt_keys import prompt_keys
from rlhf.data.records import (
    CandidatesRecord,
    DemonstrationRecord,
    PreferenceRecord,
    PromptRecord,
    chosen,
    rejected,
    resolve_image,
)
from rlhf.data.tokenization import TextEncoder, flat_ids, response_batch
from rlhf.errors import DataError
from rlhf.spans import Spans
from rlhf.types import PreferenceBatch, PromptBatch

Record = PromptRecord | DemonstrationRecord | CandidatesRecord | PreferenceRecord


def prompt_batch(
    records: Sequence[Record],
    builder: TextEncoder,
    root: Path,
    *,
    max_tokens: int,
    repeats_share: bool = False,
) -> PromptBatch:
    """Encode the prompts of B records, one image each, with the turns before them.

    Args:
        records: B records of any kind.
        builder: encodes the instructions.
        root: the directory that image paths start in.
        max_tokens: the longest prompt that is accepted, image tokens included.
        repeats_share: equal prompts share their sampling key, and so a forward pass; False: each is
            sampled by itself.

    Returns:
        B prompts in the order of `records`.

    Raises:
        DataError: a prompt longer than `max_tokens`, or an image outside `root`.
    """
    images = [(resolve_image(record.image_path, root),) for record in records]
    pairs = zip(records, images, strict=True)
    rows = [builder.prompt_ids(x.instruction, paths, x.history) for x, paths in pairs]
    for record, row in zip(records, rows, strict=True):
        if len(row) > max_tokens:
            raise DataError(
                f"prompt and image have {len(row)} tokens, the limit is {max_tokens}",
                f"{record.image_path}: {record.instruction[:60]!r}",
                "shorten the instruction, shrink the image or raise data.max_prompt_tokens",
            )
    keys = prompt_keys(records, repeats_share=repeats_share)
    return PromptBatch(
        tokens=flat_ids(rows),
        spans=Spans.from_lengths([len(row) for row in rows]),
        images=tuple(images),
        sampling_keys=torch.tensor(keys, dtype=torch.int64),
        instructions=tuple(record.instruction for record in records),
        histories=tuple(record.history for record in records),
    )


def preference_batch(
    records: Sequence[PreferenceRecord], builder: TextEncoder, root: Path, *, max_tokens: int
) -> PreferenceBatch:
    """Encode P preference records as pairs of a chosen and a rejected response.

    Args:
        records: P records; of a tie, response_a stands as chosen.
        builder: encodes the texts.
        root: the directory that image paths start in.
        max_tokens: the longest prompt that is accepted, image tokens included.

    Returns:
        P pairs in the order of `records`, with labels [P] float32: 0.5 for a tie, else 1.

    Raises:
        DataError: a prompt longer than `max_tokens`, or an image outside `root`.
    """
    texts = [ordered_responses(record) for record in records]
    ties = torch.tensor([record.preference == "tie" for record in records], dtype=torch.bool)
    return PreferenceBatch(
        prompt_batch(records, builder, root, max_tokens=max_tokens, repeats_share=True),
        response_batch([first for first, _ in texts], builder),
        response_batch([second for _, second in texts], builder),
        torch.where(ties, 0.5, 1.0),
    )


def ordered_responses(record: PreferenceRecord) -> tuple[str, str]:
    """Return the chosen and the rejected response; response_a and response_b of a tie."""
    if record.preference == "tie":
        return record.response_a, record.response_b
    return chosen(record), rejected(record)
