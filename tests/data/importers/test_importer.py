"""Each public dataset, written in its columns, becomes the records worked out by hand."""

import re
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.importers.datasets import DATASETS
from rlhf.data.importers.importer import import_dataset
from rlhf.data.records import DemonstrationRecord, PreferenceRecord, PromptRecord, read_records
from tests.data.importers.dataset_rows import (
    ALIGN_ANYTHING,
    BY_FIELD,
    CASES,
    FOUR,
    LABEL_STUDIO_MIN,
    LLAVA_RLHF,
    MULTIMODAL_REWARDBENCH,
    OTHER_CASES,
    SPA_VL,
    VL_REWARDBENCH,
    VLFEEDBACK,
)
from tests.support.foreign_datasets import (
    BLUE,
    RED,
    Rows,
    embedded,
    imported,
    stored_path,
    with_first_response,
    write_rows,
)


@pytest.mark.parametrize(("source", "suffix", "row", "record"), OTHER_CASES)
def test_a_row_becomes_its_prompt_or_demonstration(
    tmp_path: Path,
    source: str,
    suffix: str,
    row: dict[str, Any],
    record: PromptRecord | DemonstrationRecord,
) -> None:
    path = write_rows(tmp_path / f"rows.{suffix}", [row])
    report = import_dataset(source, [path], tmp_path / "out")
    file = tmp_path / "out" / f"{DATASETS[source].kind}.jsonl"
    assert read_records(file, type(record)) == [record]
    assert (report.records, report.skipped, report.images) == (1, {}, 1)


@pytest.mark.parametrize(("source", "suffix", "row", "record"), CASES)
def test_a_row_becomes_its_record(
    tmp_path: Path, source: str, suffix: str, row: dict[str, Any], record: PreferenceRecord
) -> None:
    result, report = imported(tmp_path, source, [row], suffix)
    assert [with_first_response(imported_record, "A cat.") for imported_record in result] == [
        record
    ]
    assert (report.skipped, report.images) == ({}, 1)


def test_every_set_has_a_row_here() -> None:
    cases = (*CASES, *OTHER_CASES)
    assert {source for source, *_ in cases} | {"vlfeedback"} == set(DATASETS)


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("llava_rlhf", {**LLAVA_RLHF, "preference": 2}),
        ("vl_rewardbench", {**VL_REWARDBENCH, "image": "red.png", "human_ranking": [1, 0]}),
        ("multimodal_rewardbench", {**MULTIMODAL_REWARDBENCH, "Better": "Output2"}),
        ("align_anything", {**ALIGN_ANYTHING, "overall_response": 2}),
        ("label_studio_min", {**LABEL_STUDIO_MIN, "pw": {"selected": "right"}}),
        (
            "table",
            {
                "image": "red.png",
                "prompt": "What?",
                "response_a": "A cat.",
                "response_b": "A dog.",
                "preference": "right",
            },
        ),
    ],
)
def test_the_second_response_may_win(tmp_path: Path, source: str, row: dict[str, Any]) -> None:
    (record,), _ = imported(tmp_path, source, [row])
    assert with_first_response(record, "A cat.").preference == "response_b"


def test_each_row_keeps_its_own_image(tmp_path: Path) -> None:
    rows: Rows = [
        {**SPA_VL, "image": embedded(image), "question": name}
        for name, image in (("red?", RED), ("blue?", BLUE), ("red again?", RED))
    ]
    result, report = imported(tmp_path, "spa_vl", rows, "parquet")
    assert {
        imported_record.instruction: imported_record.image_path for imported_record in result
    } == {
        "red?": stored_path(RED),
        "blue?": stored_path(BLUE),
        "red again?": stored_path(RED),
    }
    assert report.images == 2


@pytest.mark.parametrize(("completions", "suffix"), [(FOUR, "jsonl"), (BY_FIELD, "parquet")])
def test_vlfeedback_compares_mean_ratings(tmp_path: Path, completions: object, suffix: str) -> None:
    rows = [{**VLFEEDBACK, "completions": completions}]
    result, report = imported(tmp_path, "vlfeedback", rows, suffix)
    pairs = [
        with_first_response(record, min(record.response_a, record.response_b)) for record in result
    ]
    assert [(record.response_a, record.response_b, record.preference) for record in pairs] == [
        ("a", "b", "tie"),
        ("a", "c", "response_b"),
        ("b", "c", "response_b"),
    ]
    assert pairs[1].meta == {
        "response_a": {"model": "model a", "rating": 4.0},
        "response_b": {"model": "model c", "rating": 4.667},
    }
    assert {record.id for record in pairs} == {"svit-1"}
    assert report.skipped == {"rating N/A": 3}


def test_the_documentation_lists_every_source() -> None:
    text = (Path(__file__).parents[3] / "docs" / "pages" / "guides" / "importing.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE)
    assert sorted(rows) == sorted((name, dataset.kind) for name, dataset in DATASETS.items())
