"""What makes a comparison look better than it is, is said."""

import json
from pathlib import Path

import pytest

from rlhf.data.records import PromptRecord
from rlhf.evaluation.cautions import cautions

SHOWN = [PromptRecord(f"{name}.png", "What?") for name in ("a", "b", "b")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that learned from a.png and c.png, against the reward model `taste`."""
    rows = [{"image_path": f"{name}.png", "instruction": "What?"} for name in "ac"]
    lines = [*map(json.dumps, rows), "damaged", "[]"]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    directory = tmp_path / "runs" / "tuned" / "0001-20261201-000000"
    directory.mkdir(parents=True)
    data = {"prompts": str(tmp_path / "prompts.jsonl"), "root": str(tmp_path)}
    config = {"data": data, "reward": {"path": str(tmp_path / "taste")}}
    (directory / "config.yaml").write_text(json.dumps(config))
    return directory.parent


def test_images_that_were_trained_on_are_counted(run: Path, tmp_path: Path) -> None:
    (found,) = cautions([Path("hub/llava"), run], SHOWN, tmp_path, "")
    assert found.startswith("1 of 2 images were trained on")
    assert cautions([run], SHOWN, tmp_path / "elsewhere", "") == []
    assert cautions([run], SHOWN[1:], tmp_path, "") == []


def test_a_judge_that_was_optimised_is_named(run: Path, tmp_path: Path) -> None:
    (found,) = cautions([run], SHOWN[1:], tmp_path, str(tmp_path / "taste"))
    assert found.startswith("The judge is the reward model that was optimised")
    assert cautions([run], SHOWN[1:], tmp_path, str(tmp_path / "another")) == []


def test_of_models_that_are_no_runs_nothing_is_known(tmp_path: Path) -> None:
    assert cautions([tmp_path, Path("hub/llava")], SHOWN, tmp_path, "taste") == []
    (tmp_path / "config.yaml").write_text("- a list")
    assert cautions([tmp_path], SHOWN, tmp_path, "taste") == []
