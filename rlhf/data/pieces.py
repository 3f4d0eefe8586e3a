"""Batches in pieces that fit into memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.types import PromptBatch, Responses


def microbatches(prompts: PromptBatch, responses: Responses, max_tokens: int) -> list[Tensor]:
    """Rows [b] of each piece, of at most `max_tokens` tokens (one row at the least).

    Responses to one prompt stay together, for then it is read once and counts once; they are
    parted where they alone are more.
    """
    own, first = responses.spans.lengths.tolist(), prompts.spans.lengths.tolist()
    families: dict[int, list[int]] = {}
    for row, key in enumerate(prompts.keys.tolist()):
        families.setdefault(key, []).append(row)
    parts = [part for rows in families.values() for part in _parted(rows, first, own, max_tokens)]
    sizes = [first[part[0]] + sum(own[row] for row in part) for part in parts]
    return [
        torch.tensor([row for number in piece for row in parts[number]])
        for piece in fitting(sizes, max_tokens)
    ]


def fitting(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Indices of things in pieces whose sizes sum to at most `most` (one at the least).

    Those of like size go together; each appears once.
    """
    pieces: list[list[int]] = []
    filled = 0
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        if pieces and filled + sizes[index] <= most:
            pieces[-1].append(index)
            filled += sizes[index]
        else:
            pieces.append([index])
            filled = sizes[index]
    return pieces


def _parted(
    rows: list[int], first: Sequence[int], own: Sequence[int], most: int
) -> list[list[int]]:
    """Rows of one prompt, whose tokens count in each part."""
    if first[rows[0]] + sum(own[row] for row in rows) <= most:
        return [rows]
    pieces = fitting([own[row] for row in rows], most - first[rows[0]])
    return [[rows[number] for number in sorted(piece)] for piece in pieces]
