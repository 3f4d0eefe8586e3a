"""What `rlhf reward` says of learning: before and after, and trained on parts of the pairs."""

import json
from pathlib import Path

import msgspec
import pytest

from rlhf.data.records import PreferenceRecord, write_records
from tests.commands.test_reward import pairs, run, run_directory, trained


@pytest.fixture
def data(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to run in, with pairs.jsonl whose long answers are preferred."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").symlink_to(tiny / "pictures")
    write_records(tmp_path / "pairs.jsonl", long_preferred(48))
    return tmp_path


def long_preferred(count: int) -> list[PreferenceRecord]:
    """Pairs whose long answer is preferred; the untrained model prefers the likelier short one."""
    other = {"response_a": "response_b", "response_b": "response_a", "tie": "tie"}
    records = pairs(count)
    return [msgspec.structs.replace(x, preference=other[x.preference]) for x in records]


def test_the_card_says_whether_the_model_has_learnt(
    tiny: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = trained(capsys, tiny, "data.validation_fraction=0.25", "reward.epochs=20")
    directory = run_directory(metrics)
    facts = json.loads((directory / "reward" / "reward.json").read_text())["training"]
    assert facts["learnt"] == metrics["learnt"]
    assert (
        "0.0 % before, 100.0 % after (difference 100.0 points, 100.0 to 100.0)" in facts["learnt"]
    )
    assert facts["start_accuracy"] == metrics["reward/start_accuracy"] == 0
    assert facts["held_out_accuracy"] == metrics["reward/accuracy_gain"] == 1
    report = json.loads((directory / "metrics.json").read_text())
    assert report["training_gain"]["before"]["value"] == 0
    assert "learning_curve" not in report and not list(directory.glob("part-*"))


def test_what_was_not_measured_is_not_said(
    tiny: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without held-out pairs there is nothing to have learnt about, nor a learning curve."""
    metrics = trained(capsys, tiny, "data.validation_fraction=0", "reward.epochs=1")
    card = json.loads((run_directory(metrics) / "reward" / "reward.json").read_text())
    assert "learnt" not in metrics and "learnt" not in card["training"]
    words = [f"model.path={tiny / 'model'}", "data.preferences=pairs.jsonl", f"data.root={tiny}"]
    words += ["data.validation_fraction=0", "reward.learning_curve=true"]
    assert "no pair is held out" in run(capsys, "reward", *words, code=2)


@pytest.mark.parametrize(
    ("held_out", "sizes"),
    [
        ("data.validation_fraction=0.25", [12, 24, 36]),
        ("reward.cv_folds=2", [12, 18, 24]),  # four images of six pairs: two for a third, 8
    ],
)
def test_a_learning_curve_trains_on_parts_from_the_same_start(
    tiny: Path, data: Path, capsys: pytest.CaptureFixture[str], held_out: str, sizes: list[int]
) -> None:
    training = ("reward.train=lora", "reward.epochs=7", "reward.batch_size=4", "reward.lr=1e-3")
    plain = trained(capsys, tiny, held_out, *training)
    metrics = trained(capsys, tiny, held_out, *training, "reward.learning_curve=true")
    same = {name: x for name, x in plain.items() if name not in ("report", "seconds")}
    assert {name: metrics[name] for name in same} == same  # the parts change nothing
    directory = run_directory(metrics)
    curve = json.loads((directory / "metrics.json").read_text())["learning_curve"]
    assert curve["sizes"] == sizes
    # a third takes too few steps to turn the untrained model, which prefers all short answers
    assert [x["value"] for x in curve["accuracies"]] == [0, 1, 1]
    assert (metrics["reward/start_accuracy"], metrics["reward/third_accuracy"]) == (0, 0)
    assert metrics["learning_curve"] == curve["sentence"]
    assert metrics["expected_low"] <= metrics["reward/expected_accuracy"] <= 1
    found = {str(x.relative_to(directory).parent) for x in directory.rglob("part-*/metrics.jsonl")}
    folds = [""] if "cv_folds" not in held_out else ["fold-1/", "fold-2/"]
    assert found == {f"{fold}part-{n}" for fold in folds for n in (1, 2)}
    assert not list(directory.rglob("checkpoints"))
    assert "More pairs" in (directory / "report.html").read_text()
