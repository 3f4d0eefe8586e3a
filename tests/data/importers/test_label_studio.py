"""Label Studio's exports: the Pairwise tag decides, and addresses are the files that they serve."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.importers.importer import import_dataset
from rlhf.data.records import PreferenceRecord, read_records
from tests.data.importers.dataset_rows import LABEL_STUDIO, LABEL_STUDIO_MIN
from tests.support.foreign_datasets import RED, imported, stored_path


def test_several_annotations_are_several_records(tmp_path: Path) -> None:
    def judged(by: object, **value: object) -> dict[str, Any]:
        kind = "choices" if "choices" in value else "pairwise"
        return {"completed_by": by, "result": [{"type": kind, "value": value}]}

    annotations = [
        judged(1, selected="right"),
        judged({"email": "x@example.org"}, selected="left"),
        judged(3, choices=["tie"]),
        {**judged(4, selected="left"), "was_cancelled": True},
        {"completed_by": 5, "result": []},
        judged(6, selected="none"),
        judged(7, choices=["skip"]),
    ]
    row = {**LABEL_STUDIO, "annotations": annotations}
    result, report = imported(tmp_path, "label_studio", [row])
    assert [(one.annotator, one.preference, one.response_a) for one in result] == [
        ("1", "response_b", "A cat."),
        ("x@example.org", "response_a", "A cat."),
        ("3", "tie", "A cat."),
    ]
    assert report.skipped == {"no single choice": 2, "unknown label": 2}


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("/data/local-files/?d=a%20b/red.png", "a b/red.png"),
        ("/data/upload/1/red.png", "upload/1/red.png"),
        ("/data/upload/1/ab12-my%20cat.png", "upload/1/ab12-my cat.png"),
        ("/data/local-files/?d=img%5Ccats%5Cred.png", "img/cats/red.png"),
    ],
)
def test_label_studio_addresses_are_files(tmp_path: Path, address: str, place: str) -> None:
    path = tmp_path / "media" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(RED)
    row = {**LABEL_STUDIO, "data": {**LABEL_STUDIO["data"], "image": address}}  # type: ignore[dict-item]
    (record,), _ = imported(tmp_path, "label_studio", [row], root=tmp_path / "media")
    assert record.image_path == stored_path(RED)


PAIRWISE = {"from_name": "pw", "to_name": "pw", "type": "pairwise", "value": {"selected": "right"}}
TIE = {"from_name": "tie", "to_name": "q", "type": "choices", "value": {"choices": ["tie"]}}
REASON = {
    "from_name": "reason",
    "to_name": "q",
    "type": "choices",
    "value": {"choices": ["more exact"]},
}
REMARK = {
    "from_name": "why",
    "to_name": "q",
    "type": "textarea",
    "value": {"text": ["It is a cat."]},
}
STARS = {"from_name": "stars", "to_name": "q", "type": "rating", "value": {"rating": 4}}


@pytest.mark.parametrize(
    ("results", "preference", "meta"),
    [
        ([PAIRWISE], "response_b", {}),
        ([REASON, PAIRWISE], "response_b", {"reason": "more exact"}),
        (
            [PAIRWISE, REASON, REMARK, STARS],
            "response_b",
            {"reason": "more exact", "why": "It is a cat.", "stars": 4},
        ),
        ([TIE, REMARK], "tie", {"why": "It is a cat."}),
    ],
)
def test_the_pairwise_tag_decides_beside_other_tags(
    tmp_path: Path, results: list[dict[str, Any]], preference: str, meta: dict[str, Any]
) -> None:
    row = {**LABEL_STUDIO, "annotations": [{"completed_by": 1, "result": results}]}
    (record,), report = imported(tmp_path, "label_studio", [row])
    assert (record.preference, record.meta, report.skipped) == (preference, meta, {})


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([PAIRWISE, TIE], "no single choice"),
        ([PAIRWISE, PAIRWISE], "no single choice"),
        ([REASON], "unknown label"),
        ([REMARK], "no single choice"),
    ],
)
def test_two_decisions_or_none_are_counted(
    tmp_path: Path, results: list[dict[str, Any]], reason: str
) -> None:
    annotations = [{"result": results}, {"result": [PAIRWISE]}]
    _, report = imported(tmp_path, "label_studio", [{**LABEL_STUDIO, "annotations": annotations}])
    assert report.skipped == {reason: 1}


@pytest.mark.parametrize(
    ("columns", "preference"),
    [
        ({"pw": {"selected": "right"}}, "response_b"),
        ({"pw": [{"selected": "left"}]}, "response_a"),
        ({"pw": {"selected": "left"}, "reason": "more exact"}, "response_a"),
        ({"pw": None, "tie": "tie"}, "tie"),
    ],
)
def test_json_min(tmp_path: Path, columns: dict[str, Any], preference: str) -> None:
    row = {**LABEL_STUDIO_MIN, **columns}
    (record,), report = imported(tmp_path, "label_studio_min", [row])
    assert (record.preference, record.response_a, report.skipped) == (preference, "A cat.", {})
    unused = ["annotation_id", *(["reason"] if "reason" in columns else [])]
    assert set(report.notes[0].removeprefix("columns not used: ").split(", ")) >= set(unused)


@pytest.mark.parametrize("columns", [{"pw": None}, {"tie": "tie"}, {"pw": [{}, {}]}])
def test_json_min_without_one_decision_is_counted(tmp_path: Path, columns: dict[str, Any]) -> None:
    rows = [{**LABEL_STUDIO_MIN, **columns}, LABEL_STUDIO_MIN]
    _, report = imported(tmp_path, "label_studio_min", rows)
    assert report.skipped == {"no single choice": 1}


def test_the_csv_export(tmp_path: Path) -> None:
    row = {**LABEL_STUDIO_MIN, "pw": json.dumps({"selected": "right"}), "lead_time": "2.5"}
    (tmp_path / "red.png").write_bytes(RED)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*row])
        writer.writeheader()
        writer.writerow(row)
    import_dataset("label_studio_min", [tmp_path / "rows.csv"], tmp_path / "out")
    (record,) = read_records(tmp_path / "out" / "preferences.jsonl", PreferenceRecord)
    assert (record.preference, record.seconds, record.annotator) == ("response_b", 2.5, "4")
