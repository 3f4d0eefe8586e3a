"""Ten thousand damaged images give an RGB image or a DataError, fast, in little memory."""

import resource
from pathlib import Path

import pytest

from rlhf.data.images import load_image
from tests.support.mutated_images import attack, seeds


def test_the_files_to_damage_are_whole(tmp_path: Path) -> None:
    for file in seeds():
        (tmp_path / "x").write_bytes(file)
        assert load_image(tmp_path / "x").mode == "RGB"


@pytest.mark.parametrize("trials", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_images_load_or_are_refused(tmp_path: Path, trials: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts, slowest = attack(trials, tmp_path)
    assert counts["crashes"] == 0
    assert counts["loaded"] + counts["refused"] == trials and counts["loaded"] > trials / 20
    assert slowest < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
