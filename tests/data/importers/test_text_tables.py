"""CSV and TSV as spreadsheets write them: the content tells delimiter and encoding."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.data.importers import text_tables
from rlhf.data.importers.fields import Skip
from rlhf.data.importers.importer import import_dataset
from rlhf.data.importers.readers import open_rows
from rlhf.data.records import PreferenceRecord, read_records
from rlhf.errors import DataError
from tests.support.foreign_datasets import RED

ROW = {"image_path": "red.png", "instruction": "Où?", "chosen": "«là»; ici, là", "rejected": "a\tb"}


def text(delimiter: str) -> str:
    """The row with every cell in quotes, as a table with this delimiter."""
    lines = (ROW.keys(), ROW.values())
    return "".join(delimiter.join(f'"{cell}"' for cell in line) + "\r\n" for line in lines)


def opened(tmp_path: Path, content: str | bytes, name: str = "t.csv") -> tuple[list[Any], str]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = open_rows(path)
    rows = list(found.rows)
    assert found.total == len(rows)
    return rows, found.note


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("cp1252", "Windows-1252"),
    ],
)
@pytest.mark.parametrize(
    ("delimiter", "marks"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs")]
)
def test_delimiter_and_encoding(
    tmp_path: Path, delimiter: str, marks: str, encoding: str, said: str
) -> None:
    rows, note = opened(tmp_path, text(delimiter).encode(encoding))
    assert rows == [(2, ROW)]
    assert note == f"read as a table separated by {marks}, in {said}"


def test_the_name_of_the_file_does_not_matter(tmp_path: Path) -> None:
    assert opened(tmp_path, text("\t"), "t.csv")[0] == opened(tmp_path, text("\t"), "t.tsv")[0]


def test_cells_as_spreadsheets_write_them(tmp_path: Path) -> None:
    content = 'sep=;\n id ;b;\n1;"two\nlines ""x""";\n\n;;\n2;;\n'
    rows, note = opened(tmp_path, content)
    assert rows == [(4, {"id": "1", "b": 'two\nlines "x"'}), (7, {"id": "2"})]
    assert "semicolons" in note


def test_a_row_of_other_length_is_counted(tmp_path: Path) -> None:
    rows, _ = opened(tmp_path, "a,b\n1,2\n1,2,3\n1\n")
    assert [number for number, _ in rows] == [2, 3, 4]
    assert rows[0][1] == {"a": "1", "b": "2"}
    skips = [row for _, row in rows[1:] if isinstance(row, Skip)]
    assert [skip.detail for skip in skips] == ["3 cells for 2 columns", "1 cells for 2 columns"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b,a\n1,2,3\n", "'a' is there twice"),
        ('a,b\n1,"2\n', "line 2"),
        ('a,b\n1,"2" 3\n', "line 2"),
        (b"a,b\n\x81\x8d,1\n", "neither UTF-8, UTF-16 nor Windows-1252"),
        ("a,b\n", "no rows"),
        ("just words\nand more\n", "neither JSON, parquet nor a table"),
        (b"\x00\x01,\x02\n", "no text"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, content)
    assert said in caught.value.what and str(tmp_path) in caught.value.where


def test_a_table_is_imported_and_its_reading_reported(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(RED)
    (tmp_path / "t.csv").write_text(text(";"), "cp1252")
    report = import_dataset("table", [tmp_path / "t.csv"], tmp_path / "out")
    (record,) = read_records(tmp_path / "out" / "preferences.jsonl", PreferenceRecord)
    assert {record.response_a, record.response_b} == {ROW["chosen"], ROW["rejected"]}
    said = "read as a table separated by semicolons, in Windows-1252"
    assert report.notes == [f"{tmp_path / 't.csv'}: {said}"]


def test_a_row_of_many_lines_is_bounded_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_tables, "MAX_ROW", 100)
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n" + '"x\ny",z\n' * 50)  # long, but each row is short
    assert open_rows(path).total == 50
    path.write_text("a,b\n" + '"x\ny",' * 50)
    with pytest.raises(DataError, match="a row is over"):
        open_rows(path)
