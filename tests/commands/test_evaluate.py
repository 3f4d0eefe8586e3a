"""`rlhf evaluate` as a person runs it: models side by side, people as judges, wrong words."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf.cli.main import main
from rlhf.data.evaluation_split import is_held_out
from rlhf.data.images import image_digest
from rlhf.data.records import CandidatesRecord, PreferenceRecord, read_records, write_records

SMALL = ["sampling.max_new_tokens=4", "sampling.batch_size=8", "instruction=What is it?"]


@pytest.fixture
def directory(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models that answer differently, three images and a scorer."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        shutil.copytree(tiny / "model", tmp_path / name)
    settings = json.loads((tmp_path / "two" / "config.json").read_text())
    settings["text_config"]["rope_parameters"] = {"rope_theta": 7.0, "rope_type": "default"}
    (tmp_path / "two" / "config.json").write_text(json.dumps(settings))
    shutil.copytree(tiny / "pictures", tmp_path / "photos")
    (tmp_path / "length.py").write_text(
        "def length(images, instructions, responses):\n    return [len(r) for r in responses]\n"
    )
    return tmp_path


def newest(directory: Path) -> Path:
    return max(
        (directory / "runs" / "evaluate").iterdir(), key=lambda path: path.stat().st_mtime_ns
    )


def run(*args: str) -> int:
    return main(["evaluate", *args, "data.prompts=photos", *SMALL])


def test_three_models_and_the_best_of_some_samples(directory: Path) -> None:
    judge = "--scorer=length.py:length"
    temperature = "sampling.temperature=1"
    assert run("one", "two", judge, temperature, "evaluation.best_of=6") == 0
    metrics: dict[str, Any] = json.loads((newest(directory) / "metrics.json").read_text())
    base_model, best_of_6, other_model = metrics["models"].values()
    assert list(metrics["models"]) == ["before: one", "before: one, best of 6", "after: two"]
    score = next(name for name in base_model if name.startswith("score_"))
    assert best_of_6[score] > base_model[score] and best_of_6["wins"] > best_of_6["losses"]
    assert best_of_6["kl"] == pytest.approx(0.958426, abs=1e-6)  # log 6 - 5/6
    assert base_model["kl"] == 0 and other_model["kl"] != 0
    assert (
        base_model["win_rate"] is None
        and other_model["wins"] + other_model["losses"] + other_model["ties"] == 8
    )
    assert sum(kind["prompts"] for kind in metrics["kinds"].values()) == 8
    assert (newest(directory) / "report.html").read_text().count("<article") == 8


def test_the_images_that_a_run_held_out_are_evaluated(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"data": {"prompts": "photos", "evaluation_fraction": 0.5}}
    (directory / "two" / "config.yaml").write_text(json.dumps(options))
    digests = [image_digest(path) for path in (directory / "photos").iterdir()]
    held_out = sum(is_held_out(digest, 0.5) for digest in digests)
    judge = "--scorer=length.py:length"
    assert run("one", "two", judge) == 0
    report = (newest(directory) / "report.html").read_text()
    assert f"evaluating on the {held_out} images" in capsys.readouterr().out
    assert report.count("<article") == held_out and "were trained on" not in report
    assert run("one", "two", judge, "data.evaluation_fraction=0") == 0
    report = (newest(directory) / "report.html").read_text()
    assert "evaluating on" not in capsys.readouterr().out
    assert report.count("<article") == 8
    assert f"{8 - held_out} of 8 images were trained on" in report
    assert run("one", "two", judge, "evaluation.limit=1") == 0  # the first of those held out
    assert (newest(directory) / "report.html").read_text().count("<article") == 1


def test_the_same_model_ties_with_itself(directory: Path) -> None:
    shutil.copytree(directory / "one", directory / "again")
    assert run("one", "again", "--scorer=length.py:length") == 0
    summary = json.loads((newest(directory) / "summary.json").read_text())
    assert (summary["win_rate"], summary["ties"], summary["kl"]) == (0.5, 8, 0)
    assert summary["length_before"] == summary["length_after"]


def test_people_judge_blind_and_decide(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("one", "two", "evaluation.judge=person", "sampling.temperature=1")
    assert run(*args) == 0
    blind_pairs = read_records(newest(directory) / "blind.jsonl", CandidatesRecord)
    assert "rlhf annotate" in capsys.readouterr().out
    assert blind_pairs and all(len(row.responses) == 2 and not row.model for row in blind_pairs)
    texts = {text for row in blind_pairs for text in row.responses}
    judged_pairs = blind_pairs[: len(blind_pairs) - 1]
    judgments = [
        PreferenceRecord(
            row.image_path, row.instruction, row.responses[0], row.responses[1], "response_a"
        )
        for row in judged_pairs
    ]
    write_records(directory / "judgments.jsonl", judgments)
    assert run(*args, "evaluation.judgments=judgments.jsonl") == 0
    unjudged_pairs = read_records(newest(directory) / "blind.jsonl", CandidatesRecord)
    assert len(unjudged_pairs) == 1 and unjudged_pairs[0].responses[0] in texts
    model_metrics = json.loads((newest(directory) / "metrics.json").read_text())["models"][
        "after: two"
    ]
    assert model_metrics["wins"] + model_metrics["losses"] == len(judged_pairs)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["one"], 2, "two models or more"),
        (["one", "two"], 2, "no judge is named"),
        (["one", "two", "evaluation.best_of=2", "evaluation.judge=person"], 2, "needs a scorer"),
        (
            ["one", "two", "evaluation.judge=person", "evaluation.judgments=none.jsonl"],
            3,
            "no such",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_three_lines(
    directory: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, message: str
) -> None:
    assert run(*args) == code
    error_output = capsys.readouterr().err
    assert message in error_output and "to do:" in error_output
