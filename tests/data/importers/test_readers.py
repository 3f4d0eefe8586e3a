"""Hostile files and images are refused with their place; nothing outside the root is read."""

import base64
import os
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.data.importers import image_directory, readers
from rlhf.data.importers.importer import import_dataset
from rlhf.data.records import PreferenceRecord, read_records
from rlhf.data.validation.validate import validate_files
from rlhf.errors import DataError, ResourceError, UsageError
from tests.data.importers.dataset_rows import RLAIF_V, TABLE
from tests.support.foreign_datasets import (
    BLUE,
    RED,
    Rows,
    embedded,
    imported,
    png,
    stored_path,
    write_rows,
)


def with_images(*images: object) -> Rows:
    return [{**TABLE, "question": f"What is {n}?", "image_path": x} for n, x in enumerate(images)]


@pytest.mark.parametrize(
    "path",
    ["../secret.png", "../../secret.png", "sub/../../secret.png", "out.png", "outdir/secret.png"]
    + ["/etc/passwd", "/proc/self/environ", "http://x/a.png", "file:///etc/passwd", "a\0.png"]
    + ["data:image/png;base64,AAAA", ".", "page.png", "text.png", "half.png", "fifo.png"]
    + ["x" * 5000],
)  # fmt: skip
def test_only_real_images_below_the_root_come_in(tmp_path: Path, path: str) -> None:
    root = tmp_path / "set"
    write_rows(root / "rows.json", [])
    (tmp_path / "secret.png").write_bytes(BLUE)
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "outdir").symlink_to(tmp_path, target_is_directory=True)
    (root / "page.png").write_text("<html><img src=x></html>")
    (root / "text.png").write_text("no image")
    (root / "half.png").write_bytes(RED[: len(RED) // 2])
    os.mkfifo(root / "fifo.png")
    result, report = imported(tmp_path, "table", with_images(path, "red.png"))
    assert [record.instruction for record in result] == ["What is 1?"]
    assert report.skipped == {"missing or bad image": 1}
    (output,) = tmp_path.glob("out*")
    assert sorted(x.name for x in output.rglob("*")) == [
        stored_path(RED).partition("/")[2],
        "pictures",
        "preferences.jsonl",
    ]


def test_embedded_images_are_checked_as_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_directory, "MAX_BYTES", 1000)
    bad = [b"<html>", RED[:40], RED + bytes(2000), b"", b"../a.png"]
    named = embedded(RED, "../../../escape.png")
    rows = with_images(*(embedded(x) for x in bad), named)
    result, report = imported(tmp_path, "table", rows, "parquet")
    assert [record.image_path for record in result] == [stored_path(RED)]
    assert report.skipped == {"missing or bad image": 4, "no image": 1}
    assert not list(tmp_path.rglob("escape*")) and not list(tmp_path.rglob("*tmp*"))


TEXT = base64.b64encode(BLUE).decode()


@pytest.mark.parametrize("image", [BLUE, TEXT, f"data:image/png;base64,{TEXT}", embedded(BLUE)])
def test_every_way_to_embed(tmp_path: Path, image: object) -> None:
    (record,), _ = imported(tmp_path, "table", with_images(image), "parquet")
    assert record.image_path == stored_path(BLUE)


def test_embedded_without_bytes_is_a_path(tmp_path: Path) -> None:
    rows = with_images(embedded(None, "red.png"))
    (record,), _ = imported(tmp_path, "table", rows, "parquet")
    assert record.image_path == stored_path(RED)
    rows = [{**RLAIF_V, "image": embedded(None), "image_path": "blue.png"}]
    (record,), _ = imported(tmp_path, "rlaif_v", rows, "jsonl")
    assert record.image_path == stored_path(BLUE)


def test_a_name_like_base64_is_a_name(tmp_path: Path) -> None:
    name = "Qk" + "0" * 59 + "_.png"  # without its last signs it spells bytes that begin as BMP
    write_rows(tmp_path / "set" / "rows.json", [])
    (tmp_path / "set" / name).write_bytes(BLUE)
    (record,), _ = imported(tmp_path, "table", with_images(name))
    assert record.image_path == stored_path(BLUE)


BITMAP = bytes.fromhex("424d3a000000000000003600000028000000010000000100000001001800000000000400")
BITMAP += bytes(18) + b"\x00\x00\xff\x00"  # one red pixel


def test_the_name_is_the_content(tmp_path: Path) -> None:
    (record,), _ = imported(tmp_path, "table", with_images(embedded(BITMAP)), "parquet")
    assert record.image_path == "pictures/aa17a30f6ec6d08c.bmp"  # sha256sum


@pytest.mark.parametrize("can_link", [True, False])
def test_files_are_linked_or_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_link: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    if not can_link:
        monkeypatch.setattr(os, "link", refuse)
    (record,), _ = imported(tmp_path, "table", with_images("red.png"))
    (stored,) = tmp_path.glob(f"out*/{record.image_path}")
    assert stored.read_bytes() == RED
    assert stored.samefile(tmp_path / "set" / "red.png") is can_link
    assert len(list(stored.parent.iterdir())) == 1


def test_the_directory_stands_alone(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "set" / "rows.json", with_images("red.png", "blue.png"))
    import_dataset("table", [path], tmp_path / "out")
    shutil.rmtree(tmp_path / "set")
    report = validate_files([tmp_path / "out" / "preferences.jsonl"])
    assert report.ok and report.rows[0]["images found"] == 2


def test_a_full_disk_is_a_resource_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ResourceError, match="No space"):
        imported(tmp_path, "table", with_images("red.png"))
    with pytest.raises(ResourceError):
        import_dataset("table", [], tmp_path / "set" / "red.png" / "out")


def test_files_of_one_call_are_read_in_order(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "one" / "a.json", with_images("red.png"))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "blue.png").write_bytes(png("green"))
    second = tmp_path / "two" / "b.jsonl"
    second.write_text('{"image":"blue.png","prompt":"q","chosen":"x","rejected":"y"}\n\n')
    import_dataset("table", [first, second], tmp_path / "out")
    result = read_records(tmp_path / "out" / "preferences.jsonl", PreferenceRecord)
    assert [record.image_path for record in result] == [stored_path(RED), stored_path(png("green"))]


FILES = {
    "no such file": ("gone.json", None, "No such file"),
    "empty": ("a.json", b"", "no rows"),
    "only blanks": ("a.jsonl", b"\xef\xbb\xbf\n \n", "no rows"),
    "an empty list": ("a.json", b"[]", "no rows"),
    "text as parquet": ("a.parquet", b"hello", "no parquet file"),
    "JSON as parquet": ("a.parquet", b'{"a": 1}', "no parquet file"),
    "a Git LFS pointer": ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
    "one column of text": ("a.csv", b"a\n1\n", "neither JSON, parquet nor a table"),
    "a Git LFS pointer as JSON": (
        "a.json",
        b"version https://git-lfs.github.com/s",
        "git lfs pull",
    ),
    "a web page": ("a.jsonl", b"\n<!DOCTYPE html><html></html>", "a web page"),
    "an Excel workbook": ("a.csv", b"PK\x03\x04\x14\x00", "save it as CSV"),
    "a gzip file": ("a.jsonl", b"\x1f\x8b\x08\x00", "gunzip"),
    "JSON in Windows-1252": ("a.json", '{"a":\n "é"}'.encode("cp1252"), "iconv"),
    "one JSON object": ("a.json", b'{\n"a": 1\n}', "one JSON object"),
    "half a parquet file": ("a.parquet", b"PAR1" + bytes(100), "cannot be imported"),
    "half a list": ("a.json", b'[{"a": 1}, {"a"', "cannot be imported"),
    "a deep list": ("a.json", b"[" * 5000, "cannot be imported"),
    "not UTF-8": ("a.json", b'["\xff"]', "cannot be imported"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    file, content, message = FILES[name]
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError) as caught:
        import_dataset("table", [tmp_path / file], tmp_path / "out")
    assert message in caught.value.what and str(tmp_path / file) in caught.value.where
    assert not (tmp_path / "out" / "preferences.jsonl").exists()


def test_a_directory_and_a_fifo_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    for path in (tmp_path, tmp_path / "fifo.json"):
        with pytest.raises(DataError, match="not a regular file"):
            import_dataset("table", [path], tmp_path / "out")


def test_a_damaged_parquet_page_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", with_images(*["red.png"] * 500))
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    assert pq.ParquetFile(path).metadata.num_rows == 500
    with pytest.raises(DataError, match="after row 0"):
        import_dataset("table", [path], tmp_path / "out")


def test_rows_of_another_type_are_counted(tmp_path: Path) -> None:
    good = '{"image": "red.png", "prompt": "q", "chosen": "x", "rejected": "y"}'
    path = write_rows(tmp_path / "rows.jsonl", [])
    path.write_text(f'{good}\n\n{{"image":\n[1]\n')
    report = import_dataset("table", [path], tmp_path / "lines")
    assert report.skipped == {"not one JSON object": 2}
    assert [line.split("rows.jsonl")[1].split(" ")[0] for line in report.problems] == [":3:", ":4:"]
    path.write_text(f"[{good}, null, 3]")
    assert import_dataset("table", [path], tmp_path / "list").skipped == {"not an object": 2}


def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 150)
    path = write_rows(tmp_path / "a.jsonl", [TABLE, {**TABLE, "chosen": "x" * 200}])
    with pytest.raises(DataError, match="line 2 is over"):
        import_dataset("table", [path], tmp_path / "out")


def test_rows_keep_their_numbers_across_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BATCH", 2)
    images = [*["red.png"] * 6, "gone.png"]
    result, report = imported(tmp_path, "table", with_images(*images), "parquet")
    assert [record.instruction for record in result] == [f"What is {n}?" for n in range(6)]
    assert ":7:image: " in report.problems[0]


def test_wrong_columns_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        imported(tmp_path, "povid", [TABLE])
    assert caught.value.what == "povid needs image, conversations, rejected_conversations"
    assert caught.value.where.endswith("rows.json: has chosen, image_path, question, rejected")
    assert caught.value.fix == "these columns fit table; without a source, it is recognized"
    with pytest.raises(DataError) as caught:
        imported(tmp_path, "table", [{"a": 1}])
    assert "preference/chosen" in caught.value.what and "rename" in caught.value.fix


def test_other_preferences_are_never_overwritten(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.json", [TABLE])
    (tmp_path / "preferences.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="already"):
        import_dataset("table", [path], tmp_path)
    assert (tmp_path / "preferences.jsonl").read_text() == "mine"
    assert not (tmp_path / "pictures").exists()


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    path = write_rows(tmp_path / "a.parquet", [TABLE])
    monkeypatch.setattr(readers, "import_module", absent)
    with pytest.raises(UsageError) as caught:
        import_dataset("table", [path], tmp_path / "out")
    assert caught.value.fix == "pip install 'rlhf-llava[data]'"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_rows_of_parquet_that_swell_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One text of 1 MB, 1000 times in a row: 1 GB of which the file holds 1 kB."""
    indices = pa.array([0] * 1000, pa.int32())
    texts = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 2**20]))
    rows = pa.table({"a": pa.ListArray.from_arrays(pa.array([0, 1000], pa.int32()), texts)})
    pq.write_table(rows, tmp_path / "a.parquet", compression="zstd", store_schema=False)
    monkeypatch.setattr(readers, "_BATCH_MEMORY", 200_000_000)
    with pytest.raises(DataError, match="after row 0: 16 rows take over 0.2 GB"):
        next(readers.open_rows(tmp_path / "a.parquet").rows)
