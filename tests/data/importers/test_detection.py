"""A file's columns and first rows tell what it is; where they do not, it is refused."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.data.importers.datasets import DATASETS
from rlhf.data.importers.detection import detect_dataset, telling_columns
from rlhf.errors import DataError, UsageError
from tests.data.importers.dataset_rows import (
    CASES,
    DEMONSTRATION_TABLE,
    LLAMA_FACTORY,
    OTHER_CASES,
    SWIFT,
    TRL,
    VLFEEDBACK,
    conversation,
)
from tests.support.foreign_datasets import write_rows

# Rows without a mark of their dataset are what they look like; the records are the same.
TAKEN_FOR = {"mm_rlhf": "table", "conversation_prompts": "llava"}
ROWS: list[tuple[str, str, dict[str, Any]]] = [
    *((source, suffix, row) for source, suffix, row, _ in CASES),
    *((source, suffix, row) for source, suffix, row, _ in OTHER_CASES),
    ("vlfeedback", "json", {**VLFEEDBACK, "completions": []}),
]


@pytest.mark.parametrize(("source", "suffix", "row"), ROWS)
def test_every_dataset_is_recognized(
    tmp_path: Path, source: str, suffix: str, row: dict[str, Any]
) -> None:
    path = write_rows(tmp_path / f"rows.{suffix}", [row])
    assert detect_dataset(path) == TAKEN_FOR.get(source, source)
    found = detect_dataset(path, DATASETS[source].kind)
    assert found == (source if source == "conversation_prompts" else TAKEN_FOR.get(source, source))


CONVERSATION = {"image": "red.png", "conversations": conversation("a", "b", "c", "d")}
PROMPT = {"image": "red.png", "conversations": conversation("a")}
IMPLICIT = {**TRL, "images": ["red.png"]}
del IMPLICIT["prompt"]


@pytest.mark.parametrize(
    ("rows", "kind", "source"),
    [
        ([CONVERSATION], None, "llava"),
        ([PROMPT], None, "conversation_prompts"),
        ([PROMPT, CONVERSATION], None, "llava"),
        ([CONVERSATION], "prompts", "conversation_prompts"),
        ([LLAMA_FACTORY], "prompts", "conversation_prompts"),
        ([SWIFT], "demonstrations", "llava"),
        ([DEMONSTRATION_TABLE], "prompts", "prompt_table"),
        ([{"image": "a.png", "question": "q", "answer": "b"}], None, "demonstration_table"),
        ([{"image": "a.png", "prompt": "q", "answer": "b"}], None, "demonstration_table"),
        ([IMPLICIT], None, "trl"),
    ],
)
def test_kind_and_content_decide(
    tmp_path: Path, rows: list[dict[str, Any]], kind: Any, source: str
) -> None:
    assert detect_dataset(write_rows(tmp_path / "rows.json", rows), kind) == source


def test_the_columns_that_told(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.json", [{**LLAMA_FACTORY, "score": 1}])
    assert telling_columns("llama_factory", path) == [
        "images",
        "conversations",
        "chosen",
        "rejected",
    ]


def test_what_fits_nothing_or_several_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.json", [{"a": 1, "b": 2}])
    with pytest.raises(DataError) as unknown:
        detect_dataset(path)
    assert unknown.value.where == f"{path}: has a, b"
    both = {"image": "a", "question": "q", "chosen": "x", "rejected": "y"}
    path = write_rows(tmp_path / "both.json", [{**both, "ds_name": "R", "image_name": "1"}])
    with pytest.raises(UsageError) as several:
        detect_dataset(path)
    assert several.value.what == "several formats fit: rlaif_v, spa_vl"
    with pytest.raises(DataError, match="no format of demonstrations fits"):
        detect_dataset(path, "demonstrations")
