"""A missing file is answered with the file that is there under another writing of its name."""

from pathlib import Path
from unicodedata import normalize

import pytest

from rlhf.data.records import resolve_image
from rlhf.data.similar_paths import similar_file
from rlhf.errors import DataError

CAFE = normalize("NFD", "Café 1.png")
SAID = {
    "album/photo_1.jpg": "album/Photo_1.JPG is there: upper and lower case differ",
    "ALBUM\\Photo_1.JPG": "upper and lower case differ",
    "album\\Photo_1.JPG": "album/Photo_1.JPG is there: directories are separated by /",
    "album/Photo%5F1.JPG": "it is not percent-encoded",
    " album/Photo_1.JPG\t": "it has no outer blanks",
    "album /Photo_1.JPG": "it has no outer blanks",
    "file:///srv/album/Photo_1.JPG": "album/Photo_1.JPG is there: it is no URL",
    "/srv/data/album/Photo_1.JPG": "album/Photo_1.JPG is there",
    "data/album/Photo_1.JPG": "album/Photo_1.JPG is there",
    "C:\\data\\album\\Photo_1.JPG": "album/Photo_1.JPG is there: directories are",
    "album/Café 1.png": f"album/{CAFE} is there: the Unicode form differs",
    "album/CAFÉ%201.PNG": "it is not percent-encoded, upper and lower case differ",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "album").mkdir()
    for name in ("Photo_1.JPG", CAFE):
        (tmp_path / "album" / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize("written", SAID, ids=ascii)
def test_the_file_that_is_there_is_named(root: Path, written: str) -> None:
    assert SAID[written] in similar_file(written, root)
    with pytest.raises(DataError) as caught:
        resolve_image(written, root)
    assert similar_file(written, root) in caught.value.what


def test_other_files_are_not_named(root: Path) -> None:
    for written in ("album/photo_2.jpg", "album", "photo.jpg", "", "..", "a\0b", "x" * 300):
        assert similar_file(written, root) == ""
    assert similar_file("album/photo_1.jpg", root / "missing") == ""


def test_a_file_added_later_is_found(root: Path) -> None:
    assert similar_file("album/NEW.png", root) == ""
    (root / "album" / "new.png").write_bytes(b"x")
    assert similar_file("album/NEW.png", root).startswith("album/new.png is there")


def test_a_name_that_is_there_is_taken_as_it_is(root: Path) -> None:
    odd = root / "album" / "50%25 off.png"
    odd.write_bytes(b"x")
    assert resolve_image("album/50%25 off.png", root) == odd
