"""`rlhf reward` and `rlhf score` as a user runs them, on the tiny model."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from safetensors.torch import load_file, save_file

from rlhf.cli.main import main
from rlhf.data.records import PreferenceRecord, write_records

QUICK = ("reward.train=head", "reward.epochs=6", "reward.lr=0.05", "reward.batch_size=8")


def pairs(count: int, *, ties: int = 0) -> list[PreferenceRecord]:
    """Pairs of eight images: the short answer is preferred; the last ones are ties."""
    records = []
    for n in range(count):
        texts = ("blue", "I do not know what it is.")
        a, b = texts if n % 2 else texts[::-1]
        label = "tie" if n >= count - ties else "response_a" if n % 2 else "response_b"
        meta = {"pair": "style" if n % 3 else "right-wrong"}
        image = f"pictures/{n % 8:05d}.png"
        records.append(
            PreferenceRecord(
                image, "What is it?", response_a=a, response_b=b, preference=label, meta=meta
            )
        )
    return records


@pytest.fixture
def data(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to run in, with pairs.jsonl about the tiny model's images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").symlink_to(tiny / "pictures")
    write_records(tmp_path / "pairs.jsonl", pairs(24, ties=4))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    """One command in this process: its metrics, or what it says on standard error."""
    exit_code = main([*args, "--json"])
    captured = capsys.readouterr()
    assert exit_code == code, captured.err
    return json.loads(captured.out.splitlines()[-1]) if code == 0 else captured.err


def trained(capsys: pytest.CaptureFixture[str], tiny: Path, *overrides: str) -> dict[str, Any]:
    return dict(
        run(
            capsys,
            "reward",
            f"model.path={tiny / 'model'}",
            "data.preferences=pairs.jsonl",
            f"data.root={tiny}",
            *QUICK,
            *overrides,
        )
    )


def run_directory(metrics: dict[str, Any]) -> Path:
    return Path(metrics["report"]).parent


def test_reward_leaves_metrics_curves_and_a_report(
    tiny: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = trained(capsys, tiny, "data.validation_fraction=0.25")
    assert metrics["reward_model_accuracy"] == 1.0
    assert (metrics["pairs"], metrics["held_out_pairs"]) == (18, 6)
    assert metrics["accuracy_style"] == 1.0 and metrics["training_accuracy"] == 1.0
    assert metrics["blindness"] == "cannot be told from 6 pairs"
    assert metrics["instruction_test"].startswith("Every pair has the same instruction")
    directory = run_directory(metrics)
    report = json.loads((directory / "metrics.json").read_text())
    assert report["metrics"]["pairs"] == 6 and report["blindness"]["images"] == 2
    page = (directory / "report.html").read_text()
    assert "Calibration" in page and ".jsonl; seed 0; 20" in page
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    names = {name for line in lines for name in json.loads(line)}
    expected = "loss calibration_error length_correlation blindness_gap validation_loss"
    assert {f"reward/{name}" for name in expected.split()} <= names


def test_score_reproduces_the_training_accuracy(
    tiny: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = trained(capsys, tiny, "data.validation_fraction=0.25", "reward.train=lora")
    directory, root = run_directory(metrics), f"data.root={tiny}"
    result = run(capsys, "score", str(directory), "pairs.jsonl", root, "output=scores.jsonl")
    assert result["training_accuracy"] == metrics["training_accuracy"]
    assert result["held_out_accuracy"] == metrics["reward_model_accuracy"]
    rows = [json.loads(line) for line in (data / "scores.jsonl").read_text().splitlines()]
    assert [row["response_a"] for row in rows] == [r.response_a for r in pairs(24)]
    for row in rows:
        a, b = row["scores"]
        short_is_a = row["response_a"] == "blue"
        assert (a > b) == short_is_a
    card = json.loads((directory / "reward" / "reward.json").read_text())
    card["training"]["accuracy"] = 0.5
    (directory / "reward" / "reward.json").write_text(json.dumps(card))
    error_output = run(capsys, "score", str(directory), "pairs.jsonl", root, code=2)
    assert "does not score its training pairs as it did" in error_output


@pytest.mark.parametrize("training_facts", [{"accuracy": 1.0}, {}])
def test_a_reward_card_without_training_facts_still_scores(
    tiny: Path, data: Path, capsys: pytest.CaptureFixture[str], training_facts: object
) -> None:
    directory = run_directory(trained(capsys, tiny, "reward.epochs=1"))
    card = json.loads((directory / "reward" / "reward.json").read_text())
    (directory / "reward" / "reward.json").write_text(
        json.dumps(card | {"training": training_facts})
    )
    result = run(capsys, "score", str(directory), "pairs.jsonl", f"data.root={tiny}")
    assert result["records"] == 24 and 0 <= result["accuracy"] <= 1
    assert "training_accuracy" not in result


def test_a_damaged_head_is_refused(
    tiny: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run_directory(trained(capsys, tiny))
    head = directory / "reward" / "head.safetensors"
    save_file({name: value * 1.001 for name, value in load_file(head).items()}, head)
    error_output = run(capsys, "score", str(directory), "pairs.jsonl", f"data.root={tiny}", code=2)
    assert "would not read what it was trained to read" in error_output


def test_folds_judge_every_pair_by_a_model_that_did_not_see_it(
    tiny: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = trained(capsys, tiny, "reward.cv_folds=4", "reward.early_stopping_patience=2")
    assert metrics["pairs"] == 24 and metrics["held_out_pairs"] == 0
    assert 0 <= metrics["fold_accuracy_std"] <= 1
    report = json.loads((run_directory(metrics) / "metrics.json").read_text())
    assert sorted(report["folds"]) == ["1", "2", "3", "4"]
    assert sum(fold["pairs"] for fold in report["folds"].values()) == 24
    assert report["metrics"]["pairs"] == 24 and report["blindness"]["images"] == 8
    assert "Accuracy by fold" in (run_directory(metrics) / "report.html").read_text()
    rescored = run(capsys, "score", str(run_directory(metrics)), "pairs.jsonl", f"data.root={tiny}")
    assert rescored["training_accuracy"] == metrics["training_accuracy"]


def test_score_with_a_custom_function(
    data: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "mine.py").write_text(
        "def brevity(images, instructions, responses):\n"
        "    assert all(image.is_file() for image in images)\n"
        "    return [-float(len(text)) for text in responses]\n"
    )
    args = ("score", "pairs.jsonl", f"data.root={tiny}", "--scorer=mine.py:brevity")
    result = run(capsys, *args, "output=scores.jsonl")
    assert result["accuracy"] == 1.0 and result["unscored"] == 0
    first = json.loads((data / "scores.jsonl").read_text().splitlines()[0])
    assert first["scores"] == [-float(len(first["response_a"])), -float(len(first["response_b"]))]


def test_wrong_calls_of_score_are_refused(
    data: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "takes 2 words" in run(capsys, "score", "pairs.jsonl", code=2)
    (data / "prompts.jsonl").write_text('{"image_path": "a.png", "instruction": "What?"}\n')
    (data / "mine.py").write_text("def f(*words): return []\n")
    error_output = run(capsys, "score", "prompts.jsonl", "--scorer=mine.py:f", code=2)
    assert "no responses to score" in error_output


def test_a_captions_file_replaces_captioning(
    data: Path, tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tests.support import reward_models as kit

    kit.write_text_model(tmp_path / "text", tiny, "text")
    lines = [
        {
            "image_path": f"pictures/{n:05d}.png",
            "instruction": "Describe.",
            "response": f"number {n}",
        }
        for n in range(8)
    ]
    (data / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    overrides = (
        "reward=caption_text",
        f"reward.text_model={tmp_path / 'text'}",
        "reward.train=head",
    )
    metrics = trained(capsys, tiny, *overrides, "reward.captions=captions.jsonl")
    directory = run_directory(metrics)
    stored_captions = (directory / "reward" / "captions.jsonl").read_text()
    assert stored_captions.count("number") == 8
    rescored = run(capsys, "score", str(directory), "pairs.jsonl", f"data.root={tiny}")
    assert rescored["training_accuracy"] == metrics["training_accuracy"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_base_model_trained_in_full_scores_as_in_training(
    tiny: Path, data: Path, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    """Also answers with blanks around them, which decoding would strip; loaded once, as stored."""
    padded = [
        msgspec.structs.replace(r, response_a=f" {r.response_a}\n", response_b=f"\n{r.response_b} ")
        for r in pairs(16)
    ]
    write_records(data / "pairs.jsonl", padded)
    overrides = ("reward.train=full", "reward.lr=1e-3", "reward.epochs=2", f"dtype={dtype}")
    metrics = trained(capsys, tiny, *overrides)
    directory = run_directory(metrics)
    result = run(capsys, "score", str(directory), "pairs.jsonl", f"data.root={tiny}")
    assert result["training_accuracy"] == metrics["training_accuracy"]
    if dtype == "float32":
        assert result["mean_score"] == pytest.approx(0, abs=0.5)


def test_with_fewer_images_than_folds_each_image_is_a_fold(
    data: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(data / "pairs.jsonl", [x for x in pairs(24) if int(x.image_path[-5]) < 3])
    args = [f"model.path={tiny / 'model'}", "data.preferences=pairs.jsonl", f"data.root={tiny}"]
    assert main(["reward", *args, *QUICK, "reward.cv_folds=5", "output_dir=three"]) == 0
    assert "reward.cv_folds=5: there are 3 images, each is a fold" in capsys.readouterr().out
    assert sorted(path.name for path in data.glob("three/*/*/fold-*")) == [
        "fold-1",
        "fold-2",
        "fold-3",
    ]
    write_records(data / "pairs.jsonl", [x for x in pairs(24) if x.image_path[-5] == "1"])
    assert main(["reward", *args, *QUICK, "reward.cv_folds=5", "output_dir=one"]) == 3
