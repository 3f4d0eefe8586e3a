"""Run directories have unique names and one owner, and refused runs leave none behind."""

from pathlib import Path

import pytest

from rlhf.errors import DirectoryInUseError
from rlhf.storage.run_directory import RunDirectory, run_directories


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path / "run")
    with pytest.raises(DirectoryInUseError) as refusal:
        RunDirectory(tmp_path / "run")
    assert refusal.value.exit_code == 6
    first.write_summary({"x": 1})
    first.close()
    RunDirectory(tmp_path / "run").close()
    assert (tmp_path / "run" / "summary.json").read_text() == '{\n  "x": 1\n}\n'


def test_many_runs_started_at_once_get_directories_of_their_own(tmp_path: Path) -> None:
    runs = [RunDirectory.create(tmp_path, "name") for _ in range(30)]
    assert len({run.path for run in runs}) == 30


def test_a_run_in_which_nothing_was_done_leaves_no_directory(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "name")
    (run.path / "config.yaml").write_text("seed: 0\n")
    run.close()
    assert not run.path.exists()


def test_a_directory_of_runs_stands_for_its_newest(tmp_path: Path) -> None:
    names = ["20260102-030405-00ff", "20261231-000000-abcd", "20260102-030406-0000"]
    for name in [*names, "notes", "20260102-030405", "20260102-030405-00ff-x"]:
        (tmp_path / name).mkdir()
    result = run_directories(tmp_path)
    assert [path.name for path in result] == [tmp_path.name, names[1], names[2], names[0]]
    assert run_directories(tmp_path / "none") == [tmp_path / "none"]
