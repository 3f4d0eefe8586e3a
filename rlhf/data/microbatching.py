"""Batches in pieces that fit into memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.types import PromptBatch, Responses


def microbatches(prompts: PromptBatch, responses: Responses, max_tokens: int) -> list[Tensor]:
    """Rows [b] of each piece, of at most `max_tokens` tokens (one row at the least).

    Responses to one prompt stay together, for then it is read once and counts once; they are
    parted where they alone are more. Prompts with one picture stay together where they fit.
    """
    own, first = responses.spans.lengths.tolist(), prompts.spans.lengths.tolist()
    families: dict[int, list[int]] = {}
    for row, key in enumerate(prompts.keys.tolist()):
        families.setdefault(key, []).append(row)
    parts = [part for rows in families.values() for part in _parted(rows, first, own, max_tokens)]
    sizes = [first[part[0]] + sum(own[row] for row in part) for part in parts]
    pictures = [prompts.images[part[0]] for part in parts]
    return [
        torch.tensor([row for number in piece for row in parts[number]])
        for piece in fitting(sizes, max_tokens, pictures)
    ]


def fitting(
    sizes: Sequence[int], most: int, pictures: Sequence[object] | None = None
) -> list[list[int]]:
    """Indices of things in pieces whose sizes sum to at most `most` (one at the least).

    Those of like size go together, and before that those of the same of `pictures`; each appears
    once.
    """
    if pictures is None:
        return _filled(sizes, most)
    alike: dict[object, list[int]] = {}
    for index, picture in enumerate(pictures):
        alike.setdefault(picture, []).append(index)
    parts = [
        [own[number] for number in piece]
        for own in alike.values()
        for piece in _filled([sizes[index] for index in own], most)
    ]
    pieces = _filled([sum(sizes[index] for index in part) for part in parts], most)
    return [[index for number in piece for index in parts[number]] for piece in pieces]


def _filled(sizes: Sequence[int], most: int) -> list[list[int]]:
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
