"""A sweep can be read at every moment, by whoever comes, and says how each of its runs ended."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from math import inf, nan
from multiprocessing import get_context
from pathlib import Path

import pytest

from rlhf.errors import DataError, ResourceError
from rlhf.storage.sweep import (
    Member,
    Sweep,
    finish_sweep,
    is_sweep,
    read_sweep,
    summary_numbers,
    sweep_table,
    write_member,
    write_sweep,
)

SWEEP = Sweep("ppo", "objective/scores", options=("seed", "ppo.lr"), planned=3)
FAILURE = ("memory ran out", "ppo.rollout_batch_size", "lower it")


def member_of(number: int, **changes) -> Member:
    return replace(Member(number, {"seed": str(number), "ppo.lr": "1e-3"}), **changes)


def add_member(path: Path, member: Member) -> Path:
    directory = path / ",".join(f"{name}={x}" for name, x in member.overrides.items())
    directory.mkdir(exist_ok=True)
    write_member(directory, member)
    return directory


def test_a_running_sweep_is_read_from_its_members(tmp_path: Path) -> None:
    assert not is_sweep(tmp_path)
    write_sweep(tmp_path, SWEEP)
    assert is_sweep(tmp_path) and read_sweep(tmp_path) == SWEEP
    for number in (10, 9, 2):  # neither the order of names nor that of writing
        add_member(tmp_path, member_of(number))
    (tmp_path / "notes").mkdir()
    sweep = read_sweep(tmp_path)
    assert [member.number for member in sweep.members] == [2, 9, 10]
    assert {member.status for member in sweep.members} == {"running"}
    assert sweep.members[0].directory == "seed=2,ppo.lr=1e-3"
    assert not sweep.finished


def test_a_member_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_sweep(tmp_path, SWEEP)
    done = member_of(
        0, status="done", exit_code=0, objective=1.5, metrics={"win_rate": 0.5, "steps": 3}
    )
    failed = member_of(1, status="failed", exit_code=5, error=FAILURE)
    for member in (done, failed):
        add_member(tmp_path, member_of(member.number))
        add_member(tmp_path, member)
    read = [replace(member, directory="") for member in read_sweep(tmp_path).members]
    assert read == [done, failed]


def test_the_end_is_written_with_all_members(tmp_path: Path) -> None:
    write_sweep(tmp_path, SWEEP)
    add_member(tmp_path, member_of(0, status="done", exit_code=0, objective=1.0))
    killed = add_member(tmp_path, member_of(1))
    sweep = finish_sweep(tmp_path)
    assert sweep.finished and read_sweep(tmp_path) == sweep
    assert [member.status for member in sweep.members] == ["done", "interrupted"]
    for directory in tmp_path.glob("*/"):
        (directory / "member.json").unlink()
    assert read_sweep(tmp_path) == sweep  # also without the directories
    write_member(killed, member_of(1, status="done", exit_code=0, objective=2.0))
    assert read_sweep(tmp_path).members[1].status == "done"  # resumed afterwards


def test_options_that_only_members_name_are_known(tmp_path: Path) -> None:
    write_sweep(tmp_path, replace(SWEEP, options=()))
    add_member(tmp_path, member_of(0))
    add_member(tmp_path, Member(1, {"ppo.kl_coef": "0.1"}))
    assert read_sweep(tmp_path).options == ("seed", "ppo.lr", "ppo.kl_coef")


def end_members(path: Path, numbers: list[int]) -> int:
    for number in numbers:
        add_member(path, member_of(number))
        read_sweep(path)
        add_member(path, member_of(number, status="done", objective=float(number)))
    return len(numbers)


def test_many_members_write_at_once(tmp_path: Path) -> None:
    write_sweep(tmp_path, SWEEP)
    shares = [list(range(first, 80, 4)) for first in range(4)]
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        assert sum(pool.map(end_members, [tmp_path] * 4, shares)) == 80
    sweep = finish_sweep(tmp_path)
    assert [member.objective for member in sweep.members] == list(range(80))


def test_a_crash_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(tmp_path, SWEEP)
    directory = add_member(tmp_path, member_of(0))
    before = read_sweep(tmp_path)

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ResourceError):
        write_member(directory, member_of(0, status="done"))
    with pytest.raises(ResourceError):
        finish_sweep(tmp_path)
    assert read_sweep(tmp_path) == before
    assert [file.name for file in directory.iterdir()] == ["member.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"number": 0, "overrides": {"seed": 1}}'])
@pytest.mark.parametrize("name", ["sweep.json", "seed=0,ppo.lr=1e-3/member.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    write_sweep(tmp_path, SWEEP)
    add_member(tmp_path, member_of(0))
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as refusal:
        read_sweep(tmp_path)
    what, where, fix = str(refusal.value).splitlines()
    assert where == str(tmp_path / name) and what and fix


def test_a_directory_that_is_no_sweep_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError) as refusal:
            read_sweep(path)
        assert len(str(refusal.value).splitlines()) == 3


def test_the_numbers_of_a_summary() -> None:
    models = {"a": {"win_rate": 0.5, "name": "x"}}
    summary = {
        "command": "ppo",
        "steps": 3,
        "good": True,
        "kl": nan,
        "path": None,
        "models": models,
    }
    assert summary_numbers(summary) == {"steps": 3, "models/a/win_rate": 0.5}


@pytest.mark.parametrize(("direction", "best"), [("maximize", [2, 0]), ("minimize", [0, 2])])
def test_the_best_comes_first_and_what_failed_last(direction, best) -> None:
    members = (
        member_of(0, status="done", objective=-1.0),
        member_of(1, status="failed", exit_code=5, objective=3.0, error=FAILURE),
        member_of(2, status="done", objective=2.0),
        member_of(3, status="running", overrides={"seed": "3"}),
        member_of(4, status="failed", exit_code=1),
        member_of(5, status="interrupted", exit_code=143, objective=inf),
        member_of(6, status="failed", exit_code=2, error=("it is wrong", "", "")),
    )
    columns, rows = sweep_table(replace(SWEEP, direction=direction, members=members))
    assert columns == ["seed", "ppo.lr", "objective/scores", "status"]
    assert [int(str(row[0])) for row in rows] == [*best, 3, 5, 1, 4, 6]
    reasons = [row[3] for row in rows[4:]]
    assert reasons[0] == "failed: memory ran out (ppo.rollout_batch_size)"
    assert reasons[1:] == ["failed with exit code 1", "failed: it is wrong"]
    assert rows[2] == ("3", "–", "–", "running")


def test_a_sweep_without_an_objective_has_no_column_for_it() -> None:
    columns, rows = sweep_table(replace(SWEEP, objective="", members=(member_of(1), member_of(0))))
    assert columns == ["seed", "ppo.lr", "status"]
    assert rows == [("1", "1e-3", "running"), ("0", "1e-3", "running")]
