"""A directory is replaced whole or stays as it was."""

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from rlhf.errors import ResourceError
from rlhf.storage.directories import empty_directory, replaced_directory


def test_a_directory_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    model = tmp_path / "run" / "model"
    for name in ("old.json", "new.json"):
        with replaced_directory(model) as new:
            (new / "part").mkdir()
            (new / "part" / name).write_text(name)
    assert [x.name for x in (tmp_path / "run").iterdir()] == ["model"]
    assert [x.name for x in (model / "part").iterdir()] == ["new.json"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyError("bug"), KeyError),
        (OSError(28, "No space left on device"), ResourceError),
        (SafetensorError("I/O error: No space left on device"), ResourceError),
    ],
)
def test_a_failure_leaves_the_old_directory(
    tmp_path: Path, error: Exception, raised: type[Exception]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    with pytest.raises(raised), replaced_directory(tmp_path / "model") as new:
        (new / "weights").write_text("half")
        raise error
    assert [x.name for x in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "old"


def test_what_cannot_be_renamed_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rename, calls = tmp_path / "model", Path.rename, []
    model.mkdir()

    def second_fails(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(ResourceError), replaced_directory(model):
        pass
    assert len(calls) == 3 and [*tmp_path.iterdir()] == [model]


def test_an_emptied_directory_keeps_its_place_and_what_a_link_leads_to(tmp_path: Path) -> None:
    kept, emptied = tmp_path / "kept", tmp_path / "emptied"
    for path in (kept / "a", emptied / "b", emptied / "c/d"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (emptied / "link").symlink_to(kept)
    inode = emptied.stat().st_ino
    empty_directory(emptied)
    assert not [*emptied.iterdir()] and emptied.stat().st_ino == inode
    assert (kept / "a").is_file()
    with pytest.raises(ResourceError):
        empty_directory(tmp_path / "missing")


def test_files_get_the_usual_mode_and_are_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = [], os.fsync

    def record(handle: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), (tmp_path / "model").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    old = os.umask(0o027)
    try:
        with replaced_directory(tmp_path / "model") as new:
            save_file({"x": torch.zeros(1)}, new / "x.safetensors")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "model" / "x.safetensors").stat().st_mode) == 0o640
    assert synced == [(False, False), (True, False)]
