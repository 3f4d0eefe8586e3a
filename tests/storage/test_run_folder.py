"""Run folders: one owner at a time, names of their own, none left behind by a refusal."""

from pathlib import Path

import pytest

from rlhf.errors import FolderInUseError
from rlhf.storage.run_folder import RunFolder, run_folders


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run")
    with pytest.raises(FolderInUseError) as refusal:
        RunFolder(tmp_path / "run")
    assert refusal.value.exit_code == 6
    first.write_summary({"x": 1})
    first.close()
    RunFolder(tmp_path / "run").close()
    assert (tmp_path / "run" / "summary.json").read_text() == '{\n  "x": 1\n}\n'


def test_many_runs_started_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    runs = [RunFolder.create(tmp_path, "name") for _ in range(30)]
    assert len({run.path for run in runs}) == 30


def test_a_run_in_which_nothing_was_done_leaves_no_folder(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "name")
    (run.path / "config.yaml").write_text("seed: 0\n")
    run.close()
    assert not run.path.exists()


def test_a_folder_of_runs_stands_for_its_newest(tmp_path: Path) -> None:
    names = ["20260102-030405-00ff", "20261231-000000-abcd", "20260102-030406-0000"]
    for name in [*names, "notes", "20260102-030405", "20260102-030405-00ff-x"]:
        (tmp_path / name).mkdir()
    found = run_folders(tmp_path)
    assert [path.name for path in found] == [tmp_path.name, names[1], names[2], names[0]]
    assert run_folders(tmp_path / "none") == [tmp_path / "none"]
