"""JSON files are values of a type, or three lines say why not."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from rlhf.errors import DataError, UsageError
from rlhf.storage.json_files import JsonObject, read_json, read_json_or


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.5


def test_a_value_of_the_type_is_read_and_unknown_names_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"x": 3, "z": null}')
    assert read_json(tmp_path / "p.json", Point) == Point(3)
    assert read_json(tmp_path / "p.json", JsonObject) == {"x": 3, "z": None}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"x": "3"}',
        b'{"x": 1e400}',
        b'{"y": 1}',
        b"\xff\xfe",
        b"[" * 99999,
    ],
    ids=lambda content: repr(content[:9]),
)
def test_anything_else_is_an_error_of_three_lines(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        read_json(path, Point, "save it again", UsageError)
    assert (error.value.where, error.value.fix) == (str(path), "save it again")
    assert read_json_or(path, Point(1)) == Point(1)


def test_a_missing_file_and_a_directory_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DataError):
            read_json(path, JsonObject)
        assert read_json_or(path, JsonObject()) == {}
