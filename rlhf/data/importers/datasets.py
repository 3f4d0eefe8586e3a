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
    IMAGE_COLUMNS,
    INSTRUCTION_COLUMNS,
    ImportedPair,
    PairIterator,
    Row,
    Skip,
    read_as,
    read_id,
    read_image,
    read_message,
    read_scalars,
    read_single_turn,
    read_text,
    strip_image_marker,
)
from rlhf.data.importers.label_studio import label_studio

ORIGIN_COLUMNS = ("ds_name", "origin_dataset", "origin_split", "image_path")


@dataclass(frozen=True)
class DatasetFormat:
    """A form of preference data.

    Attributes:
        pairs: the pairs of one row; raises or yields Skip.
        columns: of each group one is needed.
        coding: what numbers as labels mean, "1/2" or "0/1"; "": the set does not say.
    """

    pairs: Callable[[Row], PairIterator]
    columns: tuple[tuple[str, ...], ...]
    label_encoding: str = ""

    def missing_columns(self, columns: frozenset[str]) -> list[tuple[str, ...]]:
        """The groups of which there is no column."""
        return [group for group in self.columns if not columns & set(group)]


def rlaif_v(row: Row) -> PairIterator:
    """openbmb/RLAIF-V-Dataset."""
    yield ImportedPair(
        image=read_image(row, *IMAGE_COLUMNS),
        instruction=read_text(row, "question"),
        first=read_text(row, "chosen"),
        second=read_text(row, "rejected"),
        id=read_id(row, "idx"),
        meta=read_scalars(row, *ORIGIN_COLUMNS),
    )


def trl(row: Row) -> PairIterator:
    """trl's conversational preference form, e.g. trl-lib/rlaif-v."""
    yield ImportedPair(
        image=read_image(row, "images", "image"),
        instruction=read_message(row, "prompt", "user"),
        first=read_message(row, "chosen", "assistant"),
        second=read_message(row, "rejected", "assistant"),
    )


def rlhf_v(row: Row) -> PairIterator:
    """openbmb/RLHF-V-Dataset: question and answers are JSON inside the column `text`."""
    try:
        inner = msgspec.json.decode(read_text(row, "text"), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Skip("unexpected form", "text", error) from error
    fields = {f"text.{name}": value for name, value in inner.items()}
    yield ImportedPair(
        image=read_image(row, *IMAGE_COLUMNS),
        instruction=read_text(fields, "text.question"),
        first=read_text(fields, "text.chosen"),
        second=read_text(fields, "text.rejected"),
        id=read_id(row, "idx"),
        meta=read_scalars(row, *ORIGIN_COLUMNS),
    )


def llava_rlhf(row: Row) -> PairIterator:
    """zhiqings/LLaVA-Human-Preference-10K: 1 prefers output_1; rows with earlier turns are left."""
    outputs = [read_as(row, name, dict[str, str]) for name in ("output_1", "output_2")]
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=read_single_turn(row, "conversations")[0],
        first=read_text(outputs[0], "value"),
        second=read_text(outputs[1], "value"),
        label=row.get("preference"),
        id=read_id(row, "id"),
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


def vlfeedback(row: Row) -> PairIterator:
    """MMInstruction/VLFeedback: every two completions; a higher mean rating wins, equal ones tie.

    A completion of which an aspect is "N/A" is not compared: means over other aspects than its
    rival's would decide.
    """
    image, instruction = read_image(row, "img_path", "image"), read_text(row, "prompt")
    completions = _completions(row)
    if len(completions) < 2:
        raise Skip("fewer than two answers", "completions")
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
            response_meta=(first.about(), second.about()),
        )


def _completions(row: Row) -> list[_Completion]:
    """Published both as a list of completions and as a list for each of their fields."""
    lists = row.get("completions")
    if isinstance(lists, Mapping):
        lists = read_as(row, "completions", dict[str, list[Any]])
        try:
            each = list(zip(*lists.values(), strict=True))
        except ValueError as error:
            raise Skip("unexpected form", "completions", error) from error
        row = {"completions": [dict(zip(lists, one, strict=True)) for one in each]}
    return read_as(row, "completions", list[_Completion])


def spa_vl(row: Row) -> PairIterator:
    """sqrti/SPA-VL."""
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=read_text(row, "question"),
        first=read_text(row, "chosen"),
        second=read_text(row, "rejected"),
        meta=read_scalars(row, "image_name"),
    )


def povid(row: Row) -> PairIterator:
    """YiyangAiLab/POVID_preference_data_for_VLLMs; rows with earlier turns are left out."""
    instruction, first = read_single_turn(row, "conversations")
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=instruction,
        first=first,
        second=read_single_turn(row, "rejected_conversations")[1],
        id=read_id(row, "id"),
    )


def mm_rlhf(row: Row) -> PairIterator:
    """yifanzhang114/MM-RLHF, dpo_pairs.jsonl: videos are left out."""
    if row.get("video"):
        raise Skip("video row", "video")
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=strip_image_marker(read_text(row, "prompt"), "prompt"),
        first=read_text(row, "chosen"),
        second=read_text(row, "rejected"),
        id=read_id(row, "id"),
    )


def vl_rewardbench(row: Row) -> PairIterator:
    """MMInstruction/VL-RewardBench: human_ranking gives each answer's place, 0 the better."""
    ranking, responses = row.get("human_ranking"), read_as(row, "response", list[str])
    if ranking not in ([0, 1], [1, 0]) or len(responses) != 2:
        raise Skip("unknown label", "human_ranking", ranking)
    models = row.get("models")
    names = models if isinstance(models, list) and len(models) == 2 else ["", ""]
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=read_text(row, "query"),
        first=responses[0],
        second=responses[1],
        label="ab"[ranking[0]],
        id=read_id(row, "id"),
        meta=read_scalars(row, "query_source"),
        response_meta=({"model": names[0]}, {"model": names[1]}) if any(names) else ({}, {}),
    )


def table(row: Row) -> PairIterator:
    """Any table with an image, a question, and answers with a label or chosen and rejected."""
    paired = row.get("response_a") is not None
    first, second = ("response_a", "response_b") if paired else ("chosen", "rejected")
    yield ImportedPair(
        image=read_image(row, "image_path", "image"),
        instruction=read_text(row, *INSTRUCTION_COLUMNS),
        first=read_text(row, first),
        second=read_text(row, second),
        label=row.get("preference") if paired else "a",
        id=read_id(row, "id"),
        annotator=read_id(row, "annotator"),
        created_at=read_id(row, "created_at"),
        keeps_sides=paired,
    )


DATASETS = {
    "rlaif_v": DatasetFormat(rlaif_v, (IMAGE_COLUMNS, ("question",), ("chosen",), ("rejected",))),
    "trl": DatasetFormat(trl, (("images", "image"), ("prompt",), ("chosen",), ("rejected",))),
    "rlhf_v": DatasetFormat(rlhf_v, (IMAGE_COLUMNS, ("text",))),
    "llava_rlhf": DatasetFormat(
        llava_rlhf,
        (("image",), ("conversations",), ("output_1",), ("output_2",), ("preference",)),
        label_encoding="1/2",
    ),
    "vlfeedback": DatasetFormat(vlfeedback, (("img_path", "image"), ("prompt",), ("completions",))),
    "spa_vl": DatasetFormat(spa_vl, (("image",), ("question",), ("chosen",), ("rejected",))),
    "povid": DatasetFormat(povid, (("image",), ("conversations",), ("rejected_conversations",))),
    "mm_rlhf": DatasetFormat(
        mm_rlhf, (("image", "video"), ("prompt",), ("chosen",), ("rejected",))
    ),
    "vl_rewardbench": DatasetFormat(
        vl_rewardbench, (("image",), ("query",), ("response",), ("human_ranking",))
    ),
    "label_studio": DatasetFormat(label_studio, (("data",), ("annotations",))),
    "table": DatasetFormat(
        table,
        (
            *(IMAGE_COLUMNS, INSTRUCTION_COLUMNS),
            *(("response_a", "chosen"), ("response_b", "rejected"), ("preference", "chosen")),
        ),
    ),
}
