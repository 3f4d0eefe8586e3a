"""Growing parts of training pairs: nested, of whole images, about equal steps of decided pairs."""

from pathlib import Path

import pytest
from PIL import Image

from rlhf.data.records import PreferenceRecord
from rlhf.data.splits import growing_parts
from rlhf.errors import DataError


def records(directory: Path, pairs_by_image: list[tuple[int, int]]) -> list[PreferenceRecord]:
    """Pairs of each image: how many decided ones, and how many ties."""
    found = []
    for number, counts in enumerate(pairs_by_image):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(directory / f"{number}.png")
        for preference, count in zip(("response_a", "tie"), counts, strict=True):
            record = PreferenceRecord(f"{number}.png", "What?", "a", "b", preference)
            found += [record] * count
    return found


def decided(part: list[PreferenceRecord]) -> int:
    return sum(record.preference != "tie" for record in part)


def test_six_images_of_one_pair_give_two_four_and_six(tmp_path: Path) -> None:
    pairs = records(tmp_path, [(1, 0)] * 6)
    orders = set()
    for seed in range(5):
        parts = growing_parts(pairs, tmp_path, count=3, seed=seed)
        names = [{record.image_path for record in part} for part in parts]
        assert [*map(len, names)] == [2, 4, 6] and names[0] < names[1] < names[2]
        assert parts[2] == pairs
        assert parts == growing_parts(pairs, tmp_path, count=3, seed=seed)
        orders.add(frozenset(names[0]))
    assert len(orders) > 1  # the seed decides


def test_images_are_whole_and_ties_do_not_count(tmp_path: Path) -> None:
    """Of images with 3 decided pairs and 4 ties, one, two and three hold 3, 6 and 9 of 9."""
    pairs = records(tmp_path, [(3, 4)] * 3)
    parts = growing_parts(pairs, tmp_path, count=3, seed=0)
    assert [*map(decided, parts)] == [3, 6, 9] and [*map(len, parts)] == [7, 14, 21]


def test_images_of_ties_alone_are_no_step(tmp_path: Path) -> None:
    pairs = records(tmp_path, [(1, 0)] * 3 + [(0, 9)] * 3)
    for seed in range(5):
        parts = growing_parts(pairs, tmp_path, count=3, seed=seed)
        assert [*map(decided, parts)] == [1, 2, 3]


def test_an_image_that_reaches_the_share_is_the_last_of_a_part(tmp_path: Path) -> None:
    """Of 2 pairs an image and 8 in all, 8/3 needs two images and 16/3 three."""
    parts = growing_parts(records(tmp_path, [(2, 0)] * 4), tmp_path, count=3, seed=0)
    assert [*map(decided, parts)] == [4, 6, 8]


@pytest.mark.parametrize("counts", [[(9, 0)], [(4, 0), (4, 0)], [(1, 0), (0, 3), (0, 3)]])
def test_too_few_images_are_refused(tmp_path: Path, counts: list[tuple[int, int]]) -> None:
    with pytest.raises(DataError, match="3 growing parts"):
        growing_parts(records(tmp_path, counts), tmp_path, count=3, seed=0)
