"""A comparison is made on images that no training saw, where some were held out."""

from pathlib import Path

import pytest

from rlhf.data.records import PromptRecord
from rlhf.errors import UsageError
from rlhf.evaluation.evaluation_prompts import evaluation_prompts
from tests.evaluation.test_training_images import write_run
from tests.support.image_files import write_shades

# 04 and 10 are in the tenth that is held out: see tests/data/test_evaluation_split.py
ALL = [f"{n:02}.bmp" for n in (0, 1, 4, 10)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_shades(tmp_path / "photos", 0, 1, 4, 10)


def chosen(photos: Path, *models: Path, fraction: float | None = None) -> list[str]:
    """Image paths of the prompts that are left, two on each image."""
    records = [PromptRecord(x.name, text) for x in sorted(photos.iterdir()) for text in "ab"]
    kept = evaluation_prompts(models, records, photos, fraction)
    assert [x.instruction for x in kept] == ["a", "b"] * (len(kept) // 2)
    return [record.image_path for record in kept[::2]]


def test_what_was_held_out_is_evaluated(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(photos.parent / "run", prompts=str(photos), evaluation_fraction=None)
    assert chosen(photos, Path("hub/llava"), run) == ["04.bmp", "10.bmp"]
    assert capsys.readouterr().out == (
        "evaluating on the 2 images that no training saw; data.evaluation_fraction=0 takes all 4\n"
    )
    other = write_shades(photos.parent / "other", 1, 4, 50)
    assert chosen(other, run) == ["04.bmp", "50.bmp"]  # 50 is new, 1 was trained on


def test_all_are_evaluated_where_none_was_trained_on_or_none_held_out(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(photos.parent / "run", prompts=str(photos), evaluation_fraction=0.1)
    whole = write_run(photos.parent / "whole", prompts=str(photos), evaluation_fraction=0.0)
    for models in ([Path("hub/llava")], [whole], [whole, run]):
        assert chosen(photos, *models) == ALL
    other = write_shades(photos.parent / "other", 50, 51)
    assert chosen(other, run) == ["50.bmp", "51.bmp"]
    apart = write_shades(photos.parent / "apart", 4, 10)  # the held-out ones by themselves
    assert chosen(apart, run) == ["04.bmp", "10.bmp"]
    known = write_shades(photos.parent / "known", 0, 50)  # none of them was held out
    assert chosen(known, run) == ["00.bmp", "50.bmp"]
    assert capsys.readouterr().out == ""


def test_a_fraction_that_is_set_decides(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(photos.parent / "run", prompts=str(photos), evaluation_fraction=None)
    assert chosen(photos, run, fraction=0) == ALL
    assert chosen(photos, run, fraction=1) == ALL
    assert capsys.readouterr().out == ""
    assert chosen(photos, Path("hub/llava"), fraction=0.01) == ["10.bmp"]
    assert capsys.readouterr().out == (
        "evaluating on the 1 images that data.evaluation_fraction=0.01 holds out; "
        "data.evaluation_fraction=0 takes all 4\n"
    )
    with pytest.raises(UsageError, match="share of the images is empty"):
        chosen(photos, run, fraction=0.001)
