"""Markers of images leave the text; translated paths are counted and said."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.data.importers.conversion import remove_image_marker
from rlhf.data.importers.fields import Skip
from rlhf.data.importers.importer import import_dataset
from rlhf.data.records import PromptRecord, read_records
from tests.data.importers.dataset_rows import (
    CASES,
    OTHER_CASES,
    PROMPT_TABLE,
    SWIFT,
    TABLE,
    TRL,
    message,
    text_part,
)
from tests.support.foreign_datasets import BLUE, RED, imported, stored_path, write_rows

MARKED = ["<image>\nWhat?", "<image>What?", " <image> What?", "What?\n<image>", "What? <image>\n"]


@pytest.mark.parametrize("text", MARKED)
@pytest.mark.parametrize("marks_images", [True, False])
def test_a_marker_at_an_end_is_removed(text: str, marks_images: bool) -> None:
    assert remove_image_marker(text, marks_images=marks_images) == "What?"


def test_a_marker_inside_is_text_only_where_the_format_has_no_markers() -> None:
    text = 'What does "<image>" mean? '
    assert remove_image_marker(text, marks_images=False) == text
    with pytest.raises(Skip, match="image inside the text"):
        remove_image_marker(text, marks_images=True)


SOURCES = [(source, row) for source, _, row, _ in (*CASES, *OTHER_CASES)]


def marked(value: Any) -> Any:
    """The row with a marker before each question."""
    if isinstance(value, dict):
        return {name: marked(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [marked(inner) for inner in value]
    return value.replace("What?", "<image>What?") if isinstance(value, str) else value


@pytest.mark.parametrize(("source", "row"), SOURCES)
def test_every_importer_removes_and_counts_the_marker(
    tmp_path: Path, source: str, row: dict[str, Any]
) -> None:
    bare = {name: value.replace("<image>", "") if isinstance(value, str) else value
            for name, value in row.items()}  # fmt: skip
    text = str(row)
    path = write_rows(tmp_path / "rows.parquet", [row if "<image>" in text else marked(bare)])
    report = import_dataset(source, [path], tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.jsonl")
    assert (report.records, report.image_markers) == (1, 1)
    assert '"instruction":"What?"' in file.read_text()


def test_a_list_of_one_image_is_an_image(tmp_path: Path) -> None:
    row = {**TABLE, "images": ["red.png"]}
    del row["image_path"]
    (record,), _ = imported(tmp_path, "table", [row])
    assert record.image_path == stored_path(RED)


def test_the_alpaca_input_stands_below_the_instruction(tmp_path: Path) -> None:
    rows = [{**TABLE, "input": "In one word."}, {**TABLE, "input": ""}]
    result, _ = imported(tmp_path, "table", rows)
    assert [record.instruction for record in result] == ["What?\nIn one word.", "What?"]


def test_an_implicit_prompt_is_what_both_conversations_begin_with(tmp_path: Path) -> None:
    question = message("user", {"type": "image"}, text_part("What?"))
    row = {"images": ["red.png"], "chosen": question + TRL["chosen"],
           "rejected": question + TRL["rejected"]}  # fmt: skip
    (record,), _ = imported(tmp_path, "trl", [row])
    assert record.instruction == "What?"
    assert {record.response_a, record.response_b} == {"A cat.", "A dog."}


@pytest.mark.parametrize(
    "changes",
    [
        {"rejected_messages": [SWIFT["messages"][0], {"role": "assistant", "content": "A dog."}]},
        {"messages": None, "query": "<image>What?", "response": "A cat."},
        {"rejected_images": ["red.png"]},
    ],
)
def test_every_way_in_which_swift_writes_a_pair(tmp_path: Path, changes: dict[str, Any]) -> None:
    row = {**SWIFT, **changes}
    if "rejected_messages" in changes:
        del row["rejected_response"]
    (record,), report = imported(tmp_path, "swift", [row])
    assert record.instruction == "What?" and report.skipped == {}
    assert {record.response_a, record.response_b} == {"A cat.", "A dog."}


def test_an_image_may_stand_inside_the_message(tmp_path: Path) -> None:
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": "red.png"}},
        {"type": "image", "image": "red.png"},
        {"type": "image", "path": "red.png"},
    ]
    for part in parts:
        row = {**TRL, "images": None, "prompt": message("user", part, text_part(f"What? {part}"))}
        (record,), _ = imported(tmp_path, "trl", [row])
        assert record.image_path == stored_path(RED)


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("img\\cats\\red.png", "img/cats/red.png"),
        ("img/my%20cat.png", "img/my cat.png"),
        ("C:\\data\\img\\red.png", "img/red.png"),
        ("file:///data/img/red.png", "img/red.png"),
        ("/home/you/data/img/red.png", "data/img/red.png"),
    ],
)
def test_paths_of_other_machines_are_found_and_said(
    tmp_path: Path, written: str, place: str
) -> None:
    file = tmp_path / "images" / place
    file.parent.mkdir(parents=True)
    file.write_bytes(RED)
    path = write_rows(tmp_path / "rows.json", [{**PROMPT_TABLE, "image": written}])
    report = import_dataset("prompt_table", [path], tmp_path / "out", root=tmp_path / "images")
    (record,) = read_records(tmp_path / "out" / "prompts.jsonl", PromptRecord)
    assert record.image_path == stored_path(RED)
    message = f"images found under another path: 1, such as {written} is {file}"
    assert report.notes == [message]


def test_two_paths_never_become_one_file_by_their_ends(tmp_path: Path) -> None:
    rows = [{**PROMPT_TABLE, "image": f"/{name}/red.png"} for name in "ab"]
    path = write_rows(tmp_path / "rows.json", rows)
    report = import_dataset("prompt_table", [path], tmp_path / "out", root=tmp_path)
    assert (report.records, report.skipped) == (1, {"missing or bad image": 1})


def test_without_a_named_root_no_end_is_looked_up(tmp_path: Path) -> None:
    rows = [{**PROMPT_TABLE, "image": "/a/red.png"}, {**PROMPT_TABLE, "image": "blue.png"}]
    path = write_rows(tmp_path / "rows.json", rows)
    report = import_dataset("prompt_table", [path], tmp_path / "out")
    (record,) = read_records(tmp_path / "out" / "prompts.jsonl", PromptRecord)
    assert record.image_path == stored_path(BLUE)
    assert report.skipped == {"missing or bad image": 1}


def test_columns_that_nothing_read_are_named(tmp_path: Path) -> None:
    _, report = imported(tmp_path, "table", [{**TABLE, "score": 3, "model": "x"}])
    assert report.notes == ["columns not used: model, score"]
