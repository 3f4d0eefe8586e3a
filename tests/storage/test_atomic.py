"""A file is replaced whole or stays as it was."""

import os
import stat
from pathlib import Path

import pytest

from rlhf.data.records import PromptRecord, write_records
from rlhf.errors import ResourceError, UsageError
from rlhf.storage.atomic import check_writable, replaced_file, temporary_path


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


def test_the_file_behind_a_link_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    target, link = tmp_path / "there" / "file.jsonl", tmp_path / "link.jsonl"
    target.parent.mkdir()
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    with replaced_file(link) as file:
        file.write(b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link, Path("/dev/null")):
        for use in (check_writable, lambda path: replaced_file(path).__enter__()):
            with pytest.raises(UsageError) as error:
                use(path)
            assert error.value.where == str(path)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_temporary_names_are_never_shared_and_old_ones_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "file[1]"
    assert temporary_path(path) != temporary_path(path)
    kept, stale, directory = (tmp_path / f".file[1].tmp-{n}" for n in range(3))
    other = tmp_path / ".file1.tmp-0"
    for file in (kept, stale, other):
        file.touch()
    directory.mkdir()
    (directory / "inside").touch()
    for old in (stale, directory, other):
        os.utime(old, (0, 0))
    with replaced_file(path):
        pass
    assert {*tmp_path.iterdir()} == {path, kept, other}
