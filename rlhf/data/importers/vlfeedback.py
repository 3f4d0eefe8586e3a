"""Convert rows of VLFeedback, whose completions are rated, to pairs."""

import math
from collections.abc import Mapping
from itertools import combinations
from statistics import fmean
from typing import Any

import msgspec

from rlhf.data.importers.fields import Row, Skip, read_as, read_id, read_image, read_text
from rlhf.data.importers.items import ImportedPair, ItemIterator


class _Completion(msgspec.Struct):
    """A response with its rating in each aspect."""

    response: str
    annotations: dict[str, dict[str, Any]]
    model: str = ""

    def rating(self) -> float | None:
        """Average the ratings of the aspects; None if one of them has no rating."""
        try:
            values = [float(aspect["Rating"]) for aspect in self.annotations.values()]
        except (KeyError, TypeError, ValueError):
            return None
        return fmean(values) if values and all(map(math.isfinite, values)) else None

    def description(self) -> dict[str, Any]:
        """Return model and mean rating, for the record's meta."""
        return {"model": self.model, "rating": round(self.rating() or 0, 3)}


def vlfeedback(row: Row) -> ItemIterator:
    """Read MMInstruction/VLFeedback: every two completions, preferred by their mean rating.

    Equal ratings are a tie. A completion with an aspect rated "N/A" is not compared, because its
    mean would be over other aspects than the other completion's.
    """
    image, instruction = read_image(row, "img_path", "image"), read_text(row, "prompt")
    completions = _completions(row)
    if len(completions) < 2:
        raise Skip("fewer than two responses", "completions")
    for first, second in combinations(completions, 2):
        ratings = first.rating(), second.rating()
        if ratings[0] is None or ratings[1] is None:
            yield Skip("rating N/A", "completions", f"{first.model} against {second.model}")
            continue
        yield ImportedPair(
            image=image,
            instruction=instruction,
            first=first.response,
            second=second.response,
            label="tie" if ratings[0] == ratings[1] else "ab"[ratings[1] > ratings[0]],
            id=read_id(row, "id"),
            response_meta=(first.description(), second.description()),
        )


def _completions(row: Row) -> list[_Completion]:
    """Read the completions, published as a list of objects or as an object of lists."""
    lists = row.get("completions")
    if isinstance(lists, Mapping):
        lists = read_as(row, "completions", dict[str, list[Any]])
        try:
            completions = list(zip(*lists.values(), strict=True))
        except ValueError as error:
            raise Skip("unexpected form", "completions", error) from error
        row = {"completions": [dict(zip(lists, values, strict=True)) for values in completions]}
    return read_as(row, "completions", list[_Completion])
