"""Images that trained a model, or what it began from, are found by content."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.images import image_digest
from rlhf.data.records import PromptRecord
from rlhf.errors import DataError
from rlhf.evaluation.training_images import seen_images
from tests.support.image_files import write_shades

# 04, 10 and 17 are in the tenth that is held out: see tests/data/test_evaluation_split.py
SHADES = (0, 1, 4, 10, 17)


def write_run(directory: Path, model: str = "", reward: str = "", **data: Any) -> Path:
    """Write the options of a run as config.yaml."""
    directory.mkdir(parents=True)
    options = {"model": {"path": model}, "reward": {"path": reward}, "data": data}
    (directory / "config.yaml").write_text(json.dumps(options))
    return directory


def write_rows(file: Path, *names: str) -> str:
    lines = [json.dumps({"image_path": name, "instruction": "What?"}) for name in names]
    file.write_text("\n".join([*lines, "damaged", "[1]"]))
    return str(file)


def seen(photos: Path, *models: Path) -> tuple[set[str], set[str]]:
    records = [PromptRecord(path.name, "What?") for path in sorted(photos.iterdir())]
    return seen_images(models, records, photos)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_shades(tmp_path / "photos", *SHADES)


HELD_OUT = {"04.bmp", "10.bmp", "17.bmp"}
TRAINED = {"00.bmp", "01.bmp"}


def test_a_run_saw_its_directory_but_for_the_share_it_held_out(photos: Path) -> None:
    root = photos.parent
    unset = write_run(root / "unset", prompts=str(photos), evaluation_fraction=None)
    assert seen(photos, Path("hub/llava"), unset) == (TRAINED, HELD_OUT)
    little = write_run(root / "little", prompts=str(photos), evaluation_fraction=0.01)
    both = write_run(root / "all", prompts=str(photos), evaluation_fraction=0.0)
    assert seen(photos, little) == (TRAINED | {"04.bmp"}, HELD_OUT - {"04.bmp"})
    assert seen(photos, unset, little) == (TRAINED | {"04.bmp"}, HELD_OUT - {"04.bmp"})
    assert seen(photos, unset, both) == (TRAINED | HELD_OUT, set())


def test_a_run_from_before_the_option_saw_the_whole_directory(photos: Path) -> None:
    assert seen(photos, write_run(photos.parent / "old", prompts=str(photos)))[0] == {
        *TRAINED,
        *HELD_OUT,
    }


def test_directories_inside_are_read_as_the_run_read_them(photos: Path) -> None:
    write_shades(photos.parent / "album" / "trip", 0, 4)
    data: dict[str, Any] = {"prompts": str(photos.parent / "album"), "evaluation_fraction": 0.1}
    assert seen(photos, write_run(photos.parent / "flat", **data)) == (set(), set())
    deep = write_run(photos.parent / "deep", recursive=True, **data)
    assert seen(photos, deep) == ({"00.bmp"}, {"04.bmp"})


@pytest.mark.parametrize("name", ["prompts", "preferences", "demonstrations"])
def test_files_are_read_by_content_as_far_as_they_can_be(photos: Path, name: str) -> None:
    root = write_shades(photos.parent / "elsewhere", 1, 10, 99, prefix="other")
    write_shades(root, 4)
    (root / "directory").mkdir()
    names = ("other01.bmp", "other10.bmp", "other99.bmp", "gone.bmp", "directory", "\0", "04.bmp")
    file = write_rows(photos.parent / "rows.jsonl", *names)
    data = {name: file, "root": str(root)}
    run = write_run(
        photos.parent / "runs" / "0001-20261201-000000", evaluation_fraction=None, **data
    )
    assert seen(photos, run.parent) == ({"01.bmp", "04.bmp", "10.bmp"}, set())


def test_a_file_of_prompts_may_hold_some_out(photos: Path) -> None:
    file = write_rows(photos / "rows.jsonl", "00.bmp", "04.bmp")
    run = write_run(photos.parent / "run", prompts=file, preferences=file, evaluation_fraction=0.1)
    other = write_run(photos.parent / "other", prompts=file, evaluation_fraction=0.1)
    (photos / "rows.jsonl").rename(photos.parent / "rows.jsonl")
    assert seen(photos, run) == (set(), set())  # the file is gone
    (photos.parent / "rows.jsonl").rename(file)
    records = [PromptRecord(name, "What?") for name in ("00.bmp", "04.bmp")]
    assert seen_images([other], records, photos) == ({"00.bmp"}, {"04.bmp"})
    assert seen_images([run], records, photos) == ({"00.bmp", "04.bmp"}, set())


def test_what_a_run_began_from_counts(photos: Path) -> None:
    root = photos.parent
    pairs = write_rows(root / "pairs.jsonl", "04.bmp")
    shown = write_rows(root / "shown.jsonl", "10.bmp")
    taste = write_run(root / "taste", preferences=pairs, root=str(photos))
    start = write_run(
        root / "start", model=str(root / "run"), demonstrations=shown, root=str(photos)
    )
    data = {"prompts": str(photos), "evaluation_fraction": None}
    run = write_run(root / "run", str(start / "adapter"), str(taste / "reward"), **data)
    assert seen(photos, run) == (TRAINED | {"04.bmp", "10.bmp"}, {"17.bmp"})
    assert seen(photos, run / "model") == (TRAINED | {"04.bmp", "10.bmp"}, {"17.bmp"})


def test_of_models_that_are_no_runs_nothing_is_known(photos: Path) -> None:
    assert seen(photos, photos.parent, Path("hub/llava")) == (set(), set())
    for text in ("- a list", "data: photos\nmodel: 3", "data: null"):
        (photos.parent / "config.yaml").write_text(text)
        assert seen(photos, photos.parent) == (set(), set())


def test_a_training_image_that_may_not_be_read_is_passed_over(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(path: Path) -> str:
        if path.name == "other01.bmp":
            raise DataError("The image cannot be read: Permission denied.")
        return image_digest(path)

    write_shades(photos.parent / "album", 0, 1, prefix="other")
    monkeypatch.setattr("rlhf.evaluation.training_images.image_digest", digest)
    run = write_run(photos.parent / "run", prompts=str(photos.parent / "album"))
    assert seen(photos, run) == ({"00.bmp"}, set())


def test_only_images_of_the_size_of_one_that_is_shown_are_read(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos.parent / "album").mkdir()
    (photos.parent / "album" / "long.bmp").write_bytes(bytes(71))
    run = write_run(photos.parent / "run", prompts=str(photos.parent / "album"))
    read = list[Path]()
    monkeypatch.setattr("rlhf.evaluation.training_images.image_digest", read.append)
    assert seen(photos, run) == (set(), set()) and read == []
