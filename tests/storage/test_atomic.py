"""A file is replaced whole or stays as it was."""

import os
from pathlib import Path

import pytest

from rlhf.data.records import PromptRecord, write_records
from rlhf.errors import ResourceError
from rlhf.storage.atomic import replaced_file


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"old")

    def broken() -> object:
        yield PromptRecord("a", "b")
        raise KeyError("stop")

    with pytest.raises(KeyError):
        write_records(path, broken())  # type: ignore[arg-type]
    assert (path.read_bytes(), [p.name for p in tmp_path.iterdir()]) == (b"old", ["prompts.jsonl"])


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "none" / "p.jsonl", "No such file"),
        (tmp_path / "file" / "p.jsonl", "Not a directory"),
        (tmp_path / ("x" * 250), "too long"),
    ):
        with pytest.raises(ResourceError, match=reason) as caught, replaced_file(path):
            pass
        assert caught.value.where == str(path)


def test_bytes_are_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "file.jsonl", []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append((os.fstat(fd).st_size, path.exists()))
    )
    write_records(path, [PromptRecord("a", "b")])
    assert synced == [(len(b'{"image_path":"a","instruction":"b"}') + 1, False)]
