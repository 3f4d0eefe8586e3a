"""The table of datasets and formats that can be imported: reader, columns and kind of records."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from rlhf.data.importers import preference_sets, prompt_sets, tables, trainer_formats
from rlhf.data.importers.fields import IMAGE_COLUMNS, INSTRUCTION_COLUMNS, Row
from rlhf.data.importers.items import ItemIterator
from rlhf.data.importers.label_studio import label_studio, label_studio_min
from rlhf.data.importers.vlfeedback import vlfeedback

Kind = Literal["preferences", "prompts", "demonstrations"]
Columns = tuple[tuple[str, ...], ...]

_PAIR: Columns = (("chosen",), ("rejected",))
_TURNS = ("conversations", "messages")


@dataclass(frozen=True)
class DatasetFormat:
    """How the rows of one dataset are read.

    Attributes:
        items: converts one row to pairs, prompts or demonstrations; raises or yields Skip.
        columns: groups of column names; the file needs one column of each group.
        kind: what its rows become.
        telltales: columns that only this dataset has; needed to recognize it, not to read it.
        precedence: where several formats fit a file, those of the lowest number are meant.
        marks_images: whether `<image>` in a text is the place of the image.
        label_encoding: what numbers as labels mean, "1/2" or "0/1"; "" if the dataset has none.
    """

    items: Callable[[Row], ItemIterator]
    columns: Columns
    kind: Kind = "preferences"
    telltales: Columns = ()
    precedence: int = 0
    marks_images: bool = False
    label_encoding: str = ""

    def missing_columns(self, columns: frozenset[str]) -> list[tuple[str, ...]]:
        """Return the groups without a column in `columns`."""
        return [group for group in self.columns if not columns & set(group)]

    def recognizes(self, columns: frozenset[str]) -> bool:
        """Whether a file with these columns may be this dataset."""
        return all(columns & set(group) for group in (*self.columns, *self.telltales))


DATASETS = {
    "rlaif_v": DatasetFormat(
        preference_sets.rlaif_v,
        (IMAGE_COLUMNS, ("question",), *_PAIR),
        telltales=(("ds_name", "origin_dataset"),),
    ),
    "trl": DatasetFormat(
        trainer_formats.trl, (("images", "image"), *_PAIR), telltales=(("images",),), precedence=1
    ),
    "rlhf_v": DatasetFormat(preference_sets.rlhf_v, (IMAGE_COLUMNS, ("text",))),
    "llava_rlhf": DatasetFormat(
        preference_sets.llava_rlhf,
        (("image",), ("conversations",), ("output_1",), ("output_2",), ("preference",)),
        marks_images=True,
        label_encoding="1/2",
    ),
    "vlfeedback": DatasetFormat(vlfeedback, (("img_path", "image"), ("prompt",), ("completions",))),
    "spa_vl": DatasetFormat(
        preference_sets.spa_vl,
        (("image",), ("question",), *_PAIR),
        telltales=(("image_name",),),
    ),
    "povid": DatasetFormat(
        preference_sets.povid,
        (("image",), ("conversations",), ("rejected_conversations",)),
        marks_images=True,
    ),
    "mm_rlhf": DatasetFormat(
        preference_sets.mm_rlhf,
        (("image", "video"), ("prompt",), *_PAIR),
        telltales=(("video",),),
        marks_images=True,
    ),
    "vl_rewardbench": DatasetFormat(
        preference_sets.vl_rewardbench, (("image",), ("query",), ("response",), ("human_ranking",))
    ),
    "multimodal_rewardbench": DatasetFormat(
        preference_sets.multimodal_rewardbench,
        (("Image",), ("Text",), ("Output1",), ("Output2",), ("Better",)),
    ),
    "align_anything": DatasetFormat(
        preference_sets.align_anything,
        (("image",), ("question",), ("response_1",), ("response_2",), ("overall_response",)),
        label_encoding="1/2",
    ),
    "llama_factory": DatasetFormat(
        trainer_formats.llama_factory, (IMAGE_COLUMNS, _TURNS, *_PAIR), marks_images=True
    ),
    "swift": DatasetFormat(
        trainer_formats.swift,
        (IMAGE_COLUMNS, ("messages", "query"), ("rejected_response", "rejected_messages")),
        marks_images=True,
    ),
    "label_studio": DatasetFormat(label_studio, (("data",), ("annotations",))),
    "label_studio_min": DatasetFormat(
        label_studio_min, (IMAGE_COLUMNS, INSTRUCTION_COLUMNS, ("annotation_id",))
    ),
    "table": DatasetFormat(
        tables.table,
        (
            IMAGE_COLUMNS,
            INSTRUCTION_COLUMNS,
            ("response_a", "chosen"),
            ("response_b", "rejected"),
            ("preference", "chosen"),
        ),
        precedence=2,
    ),
    "easyr1": DatasetFormat(
        prompt_sets.easyr1,
        (IMAGE_COLUMNS, ("problem",)),
        kind="prompts",
        telltales=(("answer",),),
        marks_images=True,
    ),
    "verl": DatasetFormat(
        prompt_sets.verl,
        (("prompt",), ("data_source", "reward_model")),
        kind="prompts",
        marks_images=True,
    ),
    "openrlhf_m": DatasetFormat(
        prompt_sets.openrlhf_m, (("message", "prompt"),), kind="prompts", telltales=(("answer",),)
    ),
    "conversation_prompts": DatasetFormat(
        trainer_formats.conversation_prompts,
        (IMAGE_COLUMNS, _TURNS),
        kind="prompts",
        precedence=2,
        marks_images=True,
    ),
    "prompt_table": DatasetFormat(
        tables.prompt_table, (IMAGE_COLUMNS, INSTRUCTION_COLUMNS), kind="prompts", precedence=4
    ),
    "llava": DatasetFormat(
        trainer_formats.llava,
        (IMAGE_COLUMNS, _TURNS),
        kind="demonstrations",
        precedence=1,
        marks_images=True,
    ),
    "demonstration_table": DatasetFormat(
        tables.demonstration_table,
        (IMAGE_COLUMNS, INSTRUCTION_COLUMNS, tables.RESPONSE_COLUMNS),
        kind="demonstrations",
        precedence=3,
    ),
}


def best_fits(
    columns: frozenset[str], kind: Kind | None = None, among: Collection[str] = DATASETS
) -> list[str]:
    """List the datasets that a file with these columns may be, of the lowest precedence number.

    Args:
        columns: the file's columns.
        kind: what its rows shall become; None: anything.
        among: the names that may be listed.
    """
    names = [
        name
        for name, dataset in DATASETS.items()
        if name in among and dataset.recognizes(columns) and kind in (None, dataset.kind)
    ]
    lowest = min((DATASETS[name].precedence for name in names), default=0)
    return [name for name in names if DATASETS[name].precedence == lowest]
