"""Run directories have unique names and one owner, and refused runs leave none behind."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, tzinfo
from multiprocessing import get_context
from pathlib import Path

import pytest

from rlhf.errors import DirectoryInUseError, ResourceError
from rlhf.storage import run_directory
from rlhf.storage.run_directory import (
    RunDirectory,
    new_run_directory,
    run_directories,
    run_directory_of,
    unfinished_run,
)


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path / "run")
    with pytest.raises(DirectoryInUseError) as refusal:
        RunDirectory(tmp_path / "run")
    assert refusal.value.exit_code == 6
    first.write_summary({"x": 1})
    first.close()
    RunDirectory(tmp_path / "run").close()
    assert (tmp_path / "run" / "summary.json").read_text() == '{\n  "x": 1\n}\n'


def test_names_are_a_counter_and_utc_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "datetime", Clock)
    first, second = (new_run_directory(tmp_path, "ppo") for _ in range(2))
    assert [path.name for path in (first, second)] == [
        "0001-20261129-205228",
        "0002-20261128-010203",
    ]
    assert RunDirectory.create(tmp_path, "ppo").path.name.startswith("0003-")
    assert first.parent == tmp_path / "ppo" and first.is_dir()


class Clock:
    """A clock that is set back between two calls; in UTC only."""

    times = [
        datetime(2026, 11, 28, 1, 2, 3, tzinfo=UTC),
        datetime(2026, 11, 29, 20, 52, 28, tzinfo=UTC),
    ]

    @classmethod
    def now(cls, zone: tzinfo) -> datetime:
        assert zone is UTC
        return cls.times.pop() if len(cls.times) > 1 else cls.times[0]


@pytest.mark.parametrize(
    ("there", "counter"),
    [
        ([], "0001"),
        (["20260102-030405-00ff", "notes", "7-20260102-030405"], "0001"),
        (["0007-20260102-030405", "0003-20260102-030405"], "0008"),
        (["9999-20260102-030405"], "10000"),
        (["10000-20260102-030405", "9999-20260102-030405"], "10001"),
        (["0001-20260102-030405", ".0002"], "0003"),  # a process died between its two steps
    ],
)
def test_the_counter_follows_the_largest(tmp_path: Path, there: list[str], counter: str) -> None:
    for name in there:
        (tmp_path / "ppo" / name).mkdir(parents=True)
    assert new_run_directory(tmp_path, "ppo").name.split("-")[0] == counter


def test_a_sweep_takes_a_counter_too(tmp_path: Path) -> None:
    sweep = new_run_directory(tmp_path, "ppo")
    (sweep / "sweep.json").touch()
    assert new_run_directory(tmp_path, "ppo").name.startswith("0002-")


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ppo").touch()
    with pytest.raises(ResourceError) as refusal:
        new_run_directory(tmp_path, "ppo")
    assert len(str(refusal.value).splitlines()) == 3


def create_many(directory: Path) -> list[str]:
    return [new_run_directory(directory, "name").name for _ in range(50)]


def test_many_runs_started_at_once_get_counters_of_their_own(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        names = [name for made in pool.map(create_many, [tmp_path] * 4) for name in made]
    counters = sorted(int(name.split("-")[0]) for name in names)
    assert len(set(counters)) == len(counters) == 200
    assert sorted(path.name for path in (tmp_path / "name").iterdir()) == sorted(names)


def test_a_counter_taken_since_the_count_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def mkdir_late(path: Path, **options: bool) -> None:
        if path.name == ".0001":
            mkdir(path.parent / "0001-20260102-030405")
        mkdir(path, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir_late)
    assert new_run_directory(tmp_path, "ppo").name.startswith("0002-")
    assert len(list((tmp_path / "ppo").iterdir())) == 2


def test_a_run_in_which_nothing_was_done_leaves_no_directory(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "name")
    (run.path / "config.yaml").write_text("seed: 0\n")
    run.close()
    assert not run.path.exists()


def test_a_directory_that_another_process_removes_first_is_left_alone(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "ppo")
    removed = shutil.rmtree

    def removed_by_both(path: Path) -> None:
        removed(path)  # by the other process, after this one has seen what it holds
        removed(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", removed_by_both)
        run.close()
    run.close()
    assert [*tmp_path.joinpath("ppo").iterdir()] == []


def test_a_directory_of_runs_stands_for_its_newest(tmp_path: Path) -> None:
    by_age = [
        "20260102-030405-00ff",
        "20270102-030406-0000",
        "0001-20280102-030405",
        "0002-20260102-030405",
        "9999-20260102-030405",
        "10000-20260102-030405",
    ]
    others = ["notes", "20260102-030405", "20260102-030405-00ff-x", "001-20260102-030405", ".0003"]
    for name in [*by_age, *others]:
        (tmp_path / name).mkdir()
    result = run_directories(tmp_path)
    assert [path.name for path in result] == [tmp_path.name, *reversed(by_age)]
    assert run_directories(tmp_path / "none") == [tmp_path / "none"]


def test_a_sweep_is_no_run_but_its_members_are(tmp_path: Path) -> None:
    run, sweep = new_run_directory(tmp_path, "ppo"), new_run_directory(tmp_path, "ppo")
    member = sweep / "seed=1" / "checkpoints" / "step-000001"
    member.mkdir(parents=True)
    (sweep / "sweep.json").touch()
    (member / "manifest.json").write_text('{"command": "ppo"}')
    assert run_directories(tmp_path / "ppo") == [tmp_path / "ppo", run]
    assert unfinished_run(tmp_path / "ppo", "ppo") is None
    assert run_directories(sweep) == [sweep]
    assert run_directory_of(str(member)) == sweep / "seed=1"
