"""Each public set: how one row becomes pairs, and the columns that needs.

The columns are those the sets were published with (Hugging Face names in the docstrings).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import msgspec

from rlhf.data.importers.fields import (
    IMAGE,
    QUESTION,
    Found,
    Pair,
    Row,
    Skip,
    exchange,
    identity,
    image_of,
    message,
    provenance,
    text,
    typed,
    unmarked,
)
from rlhf.data.importers.label_studio import label_studio

ORIGIN = ("ds_name", "origin_dataset", "origin_split", "image_path")


@dataclass(frozen=True)
class PublicSet:
    """A form of preference data.

    Attributes:
        pairs: the pairs of one row; raises or yields Skip.
        columns: of each group one is needed.
        coding: what numbers as labels mean, "1/2" or "0/1"; "": the set does not say.
    """

    pairs: Callable[[Row], Found]
    columns: tuple[tuple[str, ...], ...]
    coding: str = ""

    def missing(self, columns: frozenset[str]) -> list[tuple[str, ...]]:
        """The groups of which there is no column."""
        return [group for group in self.columns if not columns & set(group)]


def rlaif_v(row: Row) -> Found:
    """openbmb/RLAIF-V-Dataset."""
    yield Pair(
        image=image_of(row, *IMAGE),
        instruction=text(row, "question"),
        first=text(row, "chosen"),
        second=text(row, "rejected"),
        id=identity(row, "idx"),
        meta=provenance(row, *ORIGIN),
    )


def trl(row: Row) -> Found:
    """trl's conversational preference form, e.g. trl-lib/rlaif-v."""
    yield Pair(
        image=image_of(row, "images", "image"),
        instruction=message(row, "prompt", "user"),
        first=message(row, "chosen", "assistant"),
        second=message(row, "rejected", "assistant"),
    )


def rlhf_v(row: Row) -> Found:
    """openbmb/RLHF-V-Dataset: question and answers are JSON inside the column `text`."""
    try:
        inner = msgspec.json.decode(text(row, "text"), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Skip("unexpected form", "text", error) from error
    fields = {f"text.{name}": value for name, value in inner.items()}
    yield Pair(
        image=image_of(row, *IMAGE),
        instruction=text(fields, "text.question"),
        first=text(fields, "text.chosen"),
        second=text(fields, "text.rejected"),
        id=identity(row, "idx"),
        meta=provenance(row, *ORIGIN),
    )


def llava_rlhf(row: Row) -> Found:
    """zhiqings/LLaVA-Human-Preference-10K: 1 prefers output_1; rows with earlier turns are left."""
    outputs = [typed(row, name, dict[str, str]) for name in ("output_1", "output_2")]
    yield Pair(
        image=image_of(row, "image"),
        instruction=exchange(row, "conversations")[0],
        first=text(outputs[0], "value"),
        second=text(outputs[1], "value"),
        label=row.get("preference"),
        id=identity(row, "id"),
    )


class _Completion(msgspec.Struct):
    response: str
    annotations: dict[str, dict[str, Any]]
    model: str = ""

    def rating(self) -> float | None:
        """Mean over the aspects; None when one of them is not rated."""
        try:
            values = [float(aspect["Rating"]) for aspect in self.annotations.values()]
        except (KeyError, TypeError, ValueError):
            return None
        return fmean(values) if values and all(map(math.isfinite, values)) else None

    def about(self) -> dict[str, Any]:
        """Model and mean rating, for the record's meta."""
        return {"model": self.model, "rating": round(self.rating() or 0, 3)}


def vlfeedback(row: Row) -> Found:
    """MMInstruction/VLFeedback: every two completions; a higher mean rating wins, equal ones tie.

    A completion of which an aspect is "N/A" is not compared: means over other aspects than its
    rival's would decide.
    """
    image, instruction = image_of(row, "img_path", "image"), text(row, "prompt")
    completions = _completions(row)
    if len(completions) < 2:
        raise Skip("fewer than two answers", "completions")
    for first, second in combinations(completions, 2):
        ratings = first.rating(), second.rating()
        if ratings[0] is None or ratings[1] is None:
            yield Skip("rating N/A", "completions", f"{first.model} against {second.model}")
            continue
        yield Pair(
            image=image,
            instruction=instruction,
            first=first.response,
            second=second.response,
            label="tie" if ratings[0] == ratings[1] else "ab"[ratings[1] > ratings[0]],
            id=identity(row, "id"),
            about=(first.about(), second.about()),
        )


def _completions(row: Row) -> list[_Completion]:
    """Published both as a list of completions and as a list for each of their fields."""
    lists = row.get("completions")
    if isinstance(lists, Mapping):
        lists = typed(row, "completions", dict[str, list[Any]])
        try:
            each = list(zip(*lists.values(), strict=True))
        except ValueError as error:
            raise Skip("unexpected form", "completions", error) from error
        row = {"completions": [dict(zip(lists, one, strict=True)) for one in each]}
    return typed(row, "completions", list[_Completion])


def spa_vl(row: Row) -> Found:
    """sqrti/SPA-VL."""
    yield Pair(
        image=image_of(row, "image"),
        instruction=text(row, "question"),
        first=text(row, "chosen"),
        second=text(row, "rejected"),
        meta=provenance(row, "image_name"),
    )


def povid(row: Row) -> Found:
    """YiyangAiLab/POVID_preference_data_for_VLLMs; rows with earlier turns are left out."""
    instruction, first = exchange(row, "conversations")
    yield Pair(
        image=image_of(row, "image"),
        instruction=instruction,
        first=first,
        second=exchange(row, "rejected_conversations")[1],
        id=identity(row, "id"),
    )


def mm_rlhf(row: Row) -> Found:
    """yifanzhang114/MM-RLHF, dpo_pairs.jsonl: videos are left out."""
    if row.get("video"):
        raise Skip("video row", "video")
    yield Pair(
        image=image_of(row, "image"),
        instruction=unmarked(text(row, "prompt"), "prompt"),
        first=text(row, "chosen"),
        second=text(row, "rejected"),
        id=identity(row, "id"),
    )


def vl_rewardbench(row: Row) -> Found:
    """MMInstruction/VL-RewardBench: human_ranking gives each answer's place, 0 the better."""
    ranking, responses = row.get("human_ranking"), typed(row, "response", list[str])
    if ranking not in ([0, 1], [1, 0]) or len(responses) != 2:
        raise Skip("unknown label", "human_ranking", ranking)
    models = row.get("models")
    names = models if isinstance(models, list) and len(models) == 2 else ["", ""]
    yield Pair(
        image=image_of(row, "image"),
        instruction=text(row, "query"),
        first=responses[0],
        second=responses[1],
        label="ab"[ranking[0]],
        id=identity(row, "id"),
        meta=provenance(row, "query_source"),
        about=({"model": names[0]}, {"model": names[1]}) if any(names) else ({}, {}),
    )


def table(row: Row) -> Found:
    """Any table with an image, a question, and answers with a label or chosen and rejected."""
    paired = row.get("response_a") is not None
    first, second = ("response_a", "response_b") if paired else ("chosen", "rejected")
    yield Pair(
        image=image_of(row, "image_path", "image"),
        instruction=text(row, *QUESTION),
        first=text(row, first),
        second=text(row, second),
        label=row.get("preference") if paired else "a",
        id=identity(row, "id"),
        annotator=identity(row, "annotator"),
        created_at=identity(row, "created_at"),
        keeps_sides=paired,
    )


SETS = {
    "rlaif_v": PublicSet(rlaif_v, (IMAGE, ("question",), ("chosen",), ("rejected",))),
    "trl": PublicSet(trl, (("images", "image"), ("prompt",), ("chosen",), ("rejected",))),
    "rlhf_v": PublicSet(rlhf_v, (IMAGE, ("text",))),
    "llava_rlhf": PublicSet(
        llava_rlhf,
        (("image",), ("conversations",), ("output_1",), ("output_2",), ("preference",)),
        coding="1/2",
    ),
    "vlfeedback": PublicSet(vlfeedback, (("img_path", "image"), ("prompt",), ("completions",))),
    "spa_vl": PublicSet(spa_vl, (("image",), ("question",), ("chosen",), ("rejected",))),
    "povid": PublicSet(povid, (("image",), ("conversations",), ("rejected_conversations",))),
    "mm_rlhf": PublicSet(mm_rlhf, (("image", "video"), ("prompt",), ("chosen",), ("rejected",))),
    "vl_rewardbench": PublicSet(
        vl_rewardbench, (("image",), ("query",), ("response",), ("human_ranking",))
    ),
    "label_studio": PublicSet(label_studio, (("data",), ("annotations",))),
    "table": PublicSet(
        table,
        (
            *(IMAGE, QUESTION),
            *(("response_a", "chosen"), ("response_b", "rejected"), ("preference", "chosen")),
        ),
    ),
}
