"""Exports have the other tool's exact format and are imported again unchanged."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from rlhf.data import exporters
from rlhf.data.exporters import LABELING_CONFIG, export_label_studio, export_trl
from rlhf.data.importers.importer import import_dataset
from rlhf.data.records import CandidatesRecord, PreferenceRecord, read_records
from rlhf.errors import DataError, ResourceError, UsageError
from rlhf.history import Exchange
from tests.support.foreign_datasets import BLUE, RED, stored_path, with_first_response

FIRST = PreferenceRecord(
    stored_path(RED), "What?", "A cat.", "A dog.", "response_b", id="1", annotator="me", seconds=2.5
)
TIE = PreferenceRecord(
    stored_path(BLUE), "Wo?\n", "x", "y", "tie", shown_left="response_b", source="s"
)
LAST = PreferenceRecord(
    stored_path(RED),
    'Ü "<image>"',
    "y",
    "x",
    "response_a",
    created_at="2024-01-01",
    meta={"k": {"z": 1}},
)
RECORDS = [FIRST, TIE, LAST]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for content in (RED, BLUE):
        (tmp_path / stored_path(content)).write_bytes(content)
    return tmp_path


def reimported(source: str, path: Path) -> list[PreferenceRecord]:
    import_dataset(source, [path], path.parent / "back")
    return read_records(path.parent / "back" / "preferences.jsonl", PreferenceRecord)


def test_trl_rows(root: Path) -> None:
    exported, skipped = export_trl(RECORDS, root, root / "out.parquet")
    assert (exported, skipped) == (2, {"tie": 1})
    first, last = pq.read_table(root / "out.parquet").to_pylist()
    assert first == {
        "prompt": [
            {
                "role": "user",
                "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}],
            }
        ],
        "images": [{"bytes": RED, "path": stored_path(RED).removeprefix("pictures/")}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A dog."}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}],
    }
    assert last["chosen"][0]["content"] == [{"type": "text", "text": "y"}]


def test_trl_columns_say_that_images_are_images(root: Path) -> None:
    export_trl([FIRST], root, root / "out.parquet")
    schema = pq.read_schema(root / "out.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names == ["prompt", "images", "chosen", "rejected"]
    assert features["images"] == [{"_type": "Image"}]


def test_exported_trl_rows_are_imported_up_to_sides(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters, "BATCH", 1)
    export_trl([FIRST, LAST], root, root / "out.parquet")
    records = reimported("trl", root / "out.parquet")
    kept_fields = [
        PreferenceRecord(record.image_path, *texts, source="trl")
        for record, texts in (
            (FIRST, ("What?", "A cat.", "A dog.", "response_b")),
            (LAST, ('Ü "<image>"', "y", "x", "response_a")),
        )
    ]
    assert [
        with_first_response(record, first)
        for record, first in zip(records, ("A cat.", "y"), strict=True)
    ] == (kept_fields)


def test_label_studio_tasks(root: Path) -> None:
    assert export_label_studio(RECORDS, root / "tasks.json") == (3, {})
    first, tie, _ = json.loads((root / "tasks.json").read_text())
    assert first["data"]["image"] == f"/data/local-files/?d={stored_path(RED)}"
    assert (first["data"]["response_a"], first["data"]["response_b"]) == ("A cat.", "A dog.")
    (annotation,) = first["annotations"]
    assert annotation["lead_time"] == 2.5
    (result,) = annotation["result"]
    assert (result["type"], result["value"]) == ("pairwise", {"selected": "right"})
    (result,) = tie["annotations"][0]["result"]
    assert (result["type"], result["value"]) == ("choices", {"choices": ["tie"]})


def test_the_labeling_configuration_names_what_tasks_hold(root: Path) -> None:
    export_label_studio(RECORDS, root / "tasks.json")
    text = (root / "tasks.config.xml").read_text()
    assert text == LABELING_CONFIG
    tags = {tag.get("name"): tag for tag in ET.fromstring(text).iter() if tag.get("name")}
    tasks = json.loads((root / "tasks.json").read_text())
    fields = {tag.get("value", "").removeprefix("$") for tag in tags.values()} - {""}
    assert fields == {"image", "instruction", "response_a", "response_b"} <= set(tasks[0]["data"])
    assert tags["preference"].tag == "Pairwise"
    assert tags["preference"].get("toName") == "response_a,response_b"
    for result in (task["annotations"][0]["result"][0] for task in tasks):
        assert {result["from_name"], result["to_name"]} <= set(tags)


def test_label_studio_comes_back_exactly(root: Path) -> None:
    records = [
        replace(FIRST, id=f"n{n}", preference=side)
        for n, side in enumerate(("response_a", "response_b", "tie"))
    ]
    records += RECORDS
    export_label_studio(records, root / "tasks.json")
    assert reimported("label_studio", root / "tasks.json") == records


def test_earlier_turns_come_back_from_both_formats(root: Path) -> None:
    history = (Exchange("Where?", "Here."), Exchange("Sure?", "Yes."))
    records = [replace(FIRST, history=history), LAST]
    export_trl(records, root, root / "out.parquet")
    first, last = pq.read_table(root / "out.parquet").to_pylist()
    assert [turn["role"] for turn in first["prompt"]] == ["user", "assistant"] * 2 + ["user"]
    kinds = [[part["type"] for part in turn["content"]] for turn in first["prompt"]]
    assert kinds == [["image", "text"], *[["text"]] * 4] and len(last["prompt"]) == 1
    assert [record.history for record in reimported("trl", root / "out.parquet")] == [history, ()]
    export_label_studio(records, root / "tasks.json")
    import_dataset("label_studio", [root / "tasks.json"], root / "studio")
    assert read_records(root / "studio" / "preferences.jsonl", PreferenceRecord) == records


def test_label_studio_shows_earlier_turns_only_where_there_are_any(root: Path) -> None:
    history = (Exchange("Where?", "Here."),)
    export_label_studio([replace(FIRST, history=history), LAST], root / "tasks.json")
    tag = ET.parse(root / "tasks.config.xml").find("Paragraphs")
    assert tag is not None
    names = [tag.get(name, "") for name in ("value", "nameKey", "textKey")]
    data = [task["data"] for task in json.loads((root / "tasks.json").read_text())]
    assert names == ["$history", "instruction", "response"]
    assert [each["history"] for each in data] == [
        [{"instruction": "Where?", "response": "Here."}],
        [],
    ]


def test_candidates_become_every_pair_unjudged(root: Path) -> None:
    records = [
        CandidatesRecord(stored_path(RED), "What?", ["x", "y", "x ", "z"], id="7", meta={"k": 1}),
        CandidatesRecord(stored_path(BLUE), "Wo?", ["x", "y"]),
    ]
    assert export_label_studio(records, root / "tasks.json") == (6, {"equal responses": 1})
    tasks = json.loads((root / "tasks.json").read_text())
    pairs = [(t["data"]["id"], t["data"]["response_a"], t["data"]["response_b"]) for t in tasks]
    assert pairs == [
        ("7/0-1", "x", "y"),
        ("7/0-3", "x", "z"),
        ("7/1-2", "y", "x "),
        ("7/1-3", "y", "z"),
        ("7/2-3", "x ", "z"),
        ("", "x", "y"),
    ]
    assert not any("annotations" in task for task in tasks)
    assert tasks[5]["data"]["image"].endswith(stored_path(BLUE))


def test_exports_overwrite_nothing_and_leave_no_partial_file(root: Path) -> None:
    for name in ("out.parquet", "tasks.json", "other.config.xml"):
        (root / name).write_text("mine")
    before = sorted(root.rglob("*"))
    with pytest.raises(UsageError, match="exists"):
        export_trl(RECORDS, root, root / "out.parquet")
    for name in ("tasks.json", "other.json"):
        with pytest.raises(UsageError, match="exists"):
            export_label_studio(RECORDS, root / name)
    lost = replace(LAST, image_path="pictures/none.png")
    with pytest.raises(DataError):
        export_trl([FIRST, lost], root, root / "new.parquet")
    with pytest.raises(ResourceError):
        export_label_studio(RECORDS, root / "none" / "tasks.json")
    assert sorted(root.rglob("*")) == before
    assert (root / "tasks.json").read_text() == "mine"


def test_nothing_to_export(root: Path) -> None:
    with pytest.raises(UsageError, match="ties"):
        export_trl([TIE], root, root / "out.parquet")
    with pytest.raises(UsageError, match="nothing to compare"):
        equal_responses = CandidatesRecord(stored_path(RED), "What?", ["x", "x"])
        export_label_studio([equal_responses], root / "tasks.json")
