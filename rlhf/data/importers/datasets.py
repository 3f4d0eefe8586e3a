"""Convert a row of each public dataset to pairs, and list the columns that this needs.

The columns are those that the datasets were published with; the docstrings give their names on the
Hugging Face Hub.
"""

from collections.abc import Callable
from dataclasses import dataclass
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
from rlhf.data.importers.vlfeedback import vlfeedback

ORIGIN_COLUMNS = ("ds_name", "origin_dataset", "origin_split", "image_path")


@dataclass(frozen=True)
class DatasetFormat:
    """How the rows of one dataset are read.

    Attributes:
        pairs: converts one row to pairs; raises or yields Skip.
        columns: groups of column names; the file needs one column of each group.
        label_encoding: what numbers as labels mean, "1/2" or "0/1"; "" if the dataset has none.
    """

    pairs: Callable[[Row], PairIterator]
    columns: tuple[tuple[str, ...], ...]
    label_encoding: str = ""

    def missing_columns(self, columns: frozenset[str]) -> list[tuple[str, ...]]:
        """Return the groups without a column in `columns`."""
        return [group for group in self.columns if not columns & set(group)]


def rlaif_v(row: Row) -> PairIterator:
    """Read openbmb/RLAIF-V-Dataset."""
    yield ImportedPair(
        image=read_image(row, *IMAGE_COLUMNS),
        instruction=read_text(row, "question"),
        first=read_text(row, "chosen"),
        second=read_text(row, "rejected"),
        id=read_id(row, "idx"),
        meta=read_scalars(row, *ORIGIN_COLUMNS),
    )


def trl(row: Row) -> PairIterator:
    """Read the conversational preference format of trl, e.g. trl-lib/rlaif-v."""
    yield ImportedPair(
        image=read_image(row, "images", "image"),
        instruction=read_message(row, "prompt", "user"),
        first=read_message(row, "chosen", "assistant"),
        second=read_message(row, "rejected", "assistant"),
    )


def rlhf_v(row: Row) -> PairIterator:
    """Read openbmb/RLHF-V-Dataset: question and responses are JSON in the column `text`."""
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
    """Read zhiqings/LLaVA-Human-Preference-10K, without rows of several turns; 1 is output_1."""
    outputs = [read_as(row, name, dict[str, str]) for name in ("output_1", "output_2")]
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=read_single_turn(row, "conversations")[0],
        first=read_text(outputs[0], "value"),
        second=read_text(outputs[1], "value"),
        label=row.get("preference"),
        id=read_id(row, "id"),
    )


def spa_vl(row: Row) -> PairIterator:
    """Read sqrti/SPA-VL."""
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=read_text(row, "question"),
        first=read_text(row, "chosen"),
        second=read_text(row, "rejected"),
        meta=read_scalars(row, "image_name"),
    )


def povid(row: Row) -> PairIterator:
    """Read YiyangAiLab/POVID_preference_data_for_VLLMs, without rows of several turns."""
    instruction, first = read_single_turn(row, "conversations")
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=instruction,
        first=first,
        second=read_single_turn(row, "rejected_conversations")[1],
        id=read_id(row, "id"),
    )


def mm_rlhf(row: Row) -> PairIterator:
    """Read dpo_pairs.jsonl of yifanzhang114/MM-RLHF, without videos."""
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
    """Read MMInstruction/VL-RewardBench: human_ranking is each response's rank, 0 the better."""
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
    """Read any table with an image, an instruction, and two responses.

    The columns are response_a, response_b and preference, or chosen and rejected.
    """
    has_label = row.get("response_a") is not None
    first, second = ("response_a", "response_b") if has_label else ("chosen", "rejected")
    yield ImportedPair(
        image=read_image(row, "image_path", "image"),
        instruction=read_text(row, *INSTRUCTION_COLUMNS),
        first=read_text(row, first),
        second=read_text(row, second),
        label=row.get("preference") if has_label else "a",
        id=read_id(row, "id"),
        annotator=read_id(row, "annotator"),
        created_at=read_id(row, "created_at"),
        keeps_sides=has_label,
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
            IMAGE_COLUMNS,
            INSTRUCTION_COLUMNS,
            ("response_a", "chosen"),
            ("response_b", "rejected"),
            ("preference", "chosen"),
        ),
    ),
}
