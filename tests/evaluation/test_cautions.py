"""What makes a comparison look better than it is, is said."""

from pathlib import Path

import pytest

from rlhf.data.records import PromptRecord
from rlhf.evaluation.cautions import cautions
from tests.evaluation.test_training_images import write_rows, write_run
from tests.support.image_files import write_shades

SHOWN = [PromptRecord(f"{name}.bmp", "What?") for name in ("00", "01", "01")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that learned from 00.bmp and 02.bmp, against the reward model `taste`."""
    write_shades(tmp_path, 0, 1, 2)
    prompts = write_rows(tmp_path / "prompts.jsonl", "00.bmp", "02.bmp")
    directory = tmp_path / "runs" / "tuned" / "0001-20261201-000000"
    write_run(directory, reward=str(tmp_path / "taste"), prompts=prompts, root=str(tmp_path))
    return directory.parent


def test_images_that_were_trained_on_are_counted(run: Path, tmp_path: Path) -> None:
    (found,) = cautions([Path("hub/llava"), run], SHOWN, tmp_path, "")
    assert found.startswith("1 of 2 images were trained on")
    assert cautions([run], SHOWN[1:], tmp_path, "") == []
    write_shades(tmp_path / "elsewhere", 8, 2, prefix="copy")
    other = [PromptRecord(f"copy{name}.bmp", "What?") for name in ("02", "08")]
    (found,) = cautions([run], other, tmp_path / "elsewhere", "")
    assert found.startswith("1 of 2 images were trained on")
    assert cautions([run], other[1:], tmp_path / "elsewhere", "") == []


def test_a_judge_that_was_optimised_is_named(run: Path, tmp_path: Path) -> None:
    later = write_run(tmp_path / "later", model=str(run), reward=str(tmp_path / "another"))
    for model in (run, later):
        (found,) = cautions([model], SHOWN[1:], tmp_path, str(tmp_path / "taste"))
        assert found.startswith("The judge is the reward model that was optimised")
    assert cautions([run], SHOWN[1:], tmp_path, str(tmp_path / "another")) == []


def test_of_models_that_are_no_runs_nothing_is_known(run: Path, tmp_path: Path) -> None:
    assert cautions([tmp_path, Path("hub/llava")], SHOWN, tmp_path, "taste") == []
    (tmp_path / "config.yaml").write_text("- a list")
    assert cautions([tmp_path], SHOWN, tmp_path, "taste") == []
