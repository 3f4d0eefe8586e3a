"""`rlhf import` and `rlhf export` from the command line: metrics, tables and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rlhf.cli.main import main

ROW = {"image": "a.png", "question": "What?", "chosen": "A cat.", "rejected": "A dog."}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    rows: list[dict[str, Any]] = [{**ROW, "idx": n, "chosen": f"{n} cats."} for n in range(3)]
    rows.append({**ROW, "chosen": ""})
    (tmp_path / "set.json").write_text(json.dumps(rows))
    both = [{**ROW, "ds_name": "R", "image_name": "a.png"}]
    (tmp_path / "both.json").write_text(json.dumps(both))
    (tmp_path / "other.json").write_text('[{"x": 1, "y": 2}]')
    return tmp_path


IMPORT = ["import", "rlaif_v", "set.json", "output=out", "data.root=photos"]


def metrics(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


def test_imported_pairs_are_exported_and_imported_again(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*IMPORT, "--json"]) == 0
    import_metrics = metrics(capsys)
    assert (import_metrics["records"], import_metrics["images"], import_metrics["tie"]) == (3, 1, 0)
    assert import_metrics["response_a"] + import_metrics["response_b"] == 3
    assert import_metrics["skipped"] == {"blank text": 1}
    assert main(["validate", "out/preferences.jsonl", "--json"]) == 0
    capsys.readouterr()
    assert main(["export", "trl", "out/preferences.jsonl", "output=t.parquet", "--json"]) == 0
    assert metrics(capsys) == {"written": 3, "skipped": {}, "output": "t.parquet"}
    args = ["export", "label_studio", "out/preferences.jsonl", "output=out/tasks.json"]
    assert main(args) == 0
    assert main(["import", "label_studio", "out/tasks.json", "output=back"]) == 0
    assert Path("back/preferences.jsonl").read_text() == Path("out/preferences.jsonl").read_text()


def test_skipped_rows_are_printed(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(IMPORT) == 0
    output = capsys.readouterr().out
    assert "skipped: blank text" in output
    assert "set.json:4:first response: blank text" in output


def test_a_file_is_recognized(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["set.json"], ["auto", "set.json"]):
        assert main(["import", *words, f"output={len(words)}", "data.root=photos"]) == 0
        out = capsys.readouterr().out
        columns = "image, question, chosen, rejected"
        assert f"set.json is taken for table (preferences) because of its columns {columns}" in out
        assert "columns not used: idx" in out
    assert main(["import", "set.json", "output=p", "data.root=photos", "kind=prompts"]) == 0
    (record,) = Path("p/prompts.jsonl").read_text().splitlines()
    assert json.loads(record)["instruction"] == "What?"


def test_a_marker_is_counted(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.json").write_text(json.dumps([{**ROW, "question": "<image>\nWhat?"}]))
    assert main(["import", "m.json", "output=out", "data.root=photos", "--json"]) == 0
    found = metrics(capsys)
    assert (found["source"], found["kind"]) == ("table", "preferences")
    assert found["image_markers_removed"] == 1
    assert json.loads(Path("out/preferences.jsonl").read_text())["instruction"] == "What?"


def test_the_seed_turns_sides(directory: Path) -> None:
    texts = set()
    for seed in range(3):
        assert main([*IMPORT, f"seed={seed}", f"output=out{seed}"]) == 0
        texts.add(Path(f"out{seed}/preferences.jsonl").read_text())
    assert len(texts) > 1


def test_candidates_are_exported_for_labelling(directory: Path) -> None:
    record = {"image_path": "a.png", "instruction": "What?", "responses": ["x", "y", "z"]}
    (directory / "photos" / "c.jsonl").write_text(json.dumps(record) + "\n")
    assert main(["export", "label_studio", "photos/c.jsonl", "output=tasks.json"]) == 0
    assert len(json.loads(Path("tasks.json").read_text())) == 3


def test_label_coding(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"image": "a.png", "prompt": "q", "response_a": "x", "response_b": "y", "preference": 1}
    Path("t.json").write_text(json.dumps([row]))
    args = ["import", "table", "t.json", "data.root=photos", "output=out"]
    assert main(args) == 2
    assert "t.json:1:preference" in capsys.readouterr().err
    assert main([*args, "data.label_encoding=0/1"]) == 0
    assert json.loads(Path("out/preferences.jsonl").read_text())["preference"] == "response_b"


REFUSED = {
    "no source": (["import"], 2, "SOURCE is rlaif_v"),
    "no file": (["import", "trl"], 2, "SOURCE"),
    "no such file": (["import", "no.json", "output=out"], 3, "no.json"),
    "no such first file": (["import", "no.json", "set.json", "output=out"], 3, "no.json"),
    "only auto": (["import", "auto", "output=out"], 2, "a file is needed"),
    "another kind": (["import", "trl", "set.json", "kind=prompts", "output=out"], 2, "preferences"),
    "no such kind": (["import", "set.json", "kind=pairs", "output=out"], 2, "kind"),
    "nothing fits": (["import", "other.json", "output=out"], 3, "has x, y"),
    "several fit": (["import", "both.json", "output=out"], 2, "rlaif_v, spa_vl"),
    "an unknown source": (["import", "rlaifv", "set.json", "output=out"], 2, "rlaif_v"),
    "no output": (IMPORT[:3], 2, "output"),
    "wrong images": (["import", "rlaif_v", "set.json", "output=out"], 3, "data.root"),
    "wrong source": (["import", "povid", "set.json", "output=out"], 3, "fit table"),
    "a missing file": (["import", "trl", "no.json", "output=out"], 3, "no.json"),
    "an unknown form": (["export", "coco", "set.json", "output=o"], 2, "trl|label_studio"),
    "two files": (["export", "trl", "a.jsonl", "b.jsonl", "output=o"], 2, "one file"),
    "no records": (["export", "trl", "none.jsonl", "output=o"], 3, "none.jsonl"),
    "other records": (
        ["export", "label_studio", "set.json", "output=o"],
        3,
        "it is a JSON list: jq",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused_in_three_lines(
    directory: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    args, code, message = REFUSED[name]
    assert main(args) == code
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert 2 <= len(captured.err.strip().splitlines()) <= 3
    assert not Path("o").exists() and not Path("out/preferences.jsonl").exists()
