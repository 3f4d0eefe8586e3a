"""Sweeps: a directory for each member, failures that end nothing else, a table at the end."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.cli.main import main
from rlhf.cli.resolvers import member_directory
from rlhf.commands.job import Job
from rlhf.errors import DataError, DivergedError
from rlhf.storage.run_directory import lock_directory
from rlhf.storage.sweep import Sweep, read_sweep
from rlhf.tracking.console import console

Run = Callable[[Job], None]


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Run]:
    """What the command does before it returns metrics; tests append to it."""
    actions: list[Run] = []

    def command(job: Job) -> dict[str, Any]:
        for action in actions:
            action(job)
        score = job.config.seed - 10 * job.config.ppo.kl_coef
        return {"objective/rlhf_reward": score, "loss": -score}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf.cli.main.load_function", lambda name: command)
    return actions


def the_sweep(name: str = "ppo") -> tuple[Path, Sweep]:
    [file] = Path("runs", name).glob("*/sweep.json")
    return file.parent, read_sweep(file.parent)


def test_a_member_is_named_by_its_overrides(
    during: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ppo", "-m", "seed=1,2,3", "ppo.kl_coef=0.02,0.1", "model.path=a/b"]) == 0
    directory, sweep = the_sweep()
    names = {f"seed={s},ppo.kl_coef={k}" for s in (1, 2, 3) for k in ("0.02", "0.1")}
    assert {x.name for x in directory.iterdir() if x.is_dir()} == names
    assert all((directory / x / "config.yaml").is_file() for x in names)
    assert sweep.options == ("seed", "ppo.kl_coef") and sweep.finished and sweep.planned == 6
    assert [x.objective for x in sweep.members] == pytest.approx([0.8, 0, 1.8, 1, 2.8, 2])
    output = capsys.readouterr().out
    assert "2 of 6: seed=1,ppo.kl_coef=0.1" in output and "6 runs in runs/ppo/" in output
    table = output[output.index("6 runs in") :]
    rows = [line.split("│") for line in table.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == ["3", "3", "2", "2", "1", "1"]  # best first
    assert f"rlhf compare {directory}" in output


def test_ranges_choices_and_groups_are_swept(during: list[Run]) -> None:
    assert main(["ppo", "--multirun", "seed=range(1,4)", "name=a"]) == 0
    assert len(the_sweep("a")[1].members) == 3
    assert main(["ppo", "-m", "ppo=glob(*)", "name=b"]) == 0
    assert {x.directory for x in the_sweep("b")[1].members} == {
        "ppo=grpo",
        "ppo=reinforce",
        "ppo=rloo",
        "ppo=short",
    }
    assert main(["ppo", "-m", "ppo.lr=choice(1e-5,1e-4)", "name=c"]) == 0
    assert [x.overrides for x in the_sweep("c")[1].members] == [
        {"ppo.lr": "1e-05"},
        {"ppo.lr": "0.0001"},
    ]


def test_a_failed_member_does_not_end_the_others(
    during: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(job: Job) -> None:
        if job.config.seed == 2:
            raise DivergedError("not finite", "step 3", "lower ppo.lr")
        if job.config.seed == 3:
            raise DataError("bad", "x.jsonl:1", "")

    during.append(fail)
    assert main(["ppo", "-m", "seed=1,2,3,4"]) == 4  # that of the first failure
    _, sweep = the_sweep()
    assert [(x.status, x.exit_code) for x in sweep.members] == [
        ("done", 0),
        ("failed", 4),
        ("failed", 3),
        ("done", 0),
    ]
    assert sweep.members[1].error == ("not finite", "step 3", "lower ppo.lr")
    captured = capsys.readouterr()
    assert captured.err.count("error:") == 2 and "failed: not finite" in captured.out


def test_a_bug_in_one_member_shows_its_traceback_and_ends_no_other(
    during: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    during.append(lambda job: None if job.config.seed else [][1])
    assert main(["ppo", "-m", "seed=0,1"]) == 1
    assert [x.status for x in the_sweep()[1].members] == ["failed", "done"]
    assert "IndexError" in capsys.readouterr().err


def test_a_signal_ends_the_sweep(during: list[Run]) -> None:
    during.append(lambda job: signal.raise_signal(signal.SIGTERM))
    assert main(["ppo", "-m", "seed=1,2"]) == 143
    [member] = the_sweep()[1].members
    assert (member.status, member.exit_code) == ("interrupted", 143)


def test_a_keyboard_interrupt_ends_the_sweep(during: list[Run]) -> None:
    def interrupt(job: Job) -> None:  # a signal itself is ignored in background processes
        raise KeyboardInterrupt

    during.append(interrupt)
    assert main(["ppo", "-m", "seed=1,2"]) == 130
    assert [x.status for x in the_sweep()[1].members] == ["interrupted"]


def test_an_invalid_value_is_the_failure_of_its_member(during: list[Run]) -> None:
    assert main(["ppo", "-m", "ppo.clip_range=0.2,2"]) == 2
    assert [x.status for x in the_sweep()[1].members] == ["done", "failed"]


def test_a_member_that_is_resumed_later_counts(during: list[Run]) -> None:
    def fail(job: Job) -> None:
        if job.config.seed == 2 and not job.config.resume:
            raise DataError("bad", "", "")

    during.append(fail)
    assert main(["ppo", "-m", "seed=1,2"]) == 3
    directory, _ = the_sweep()
    assert main(["ppo", f"resume={directory / 'seed=2'}"]) == 0
    member = read_sweep(directory).members[1]
    assert (member.status, member.objective, member.error) == ("done", 1.5, None)


def interrupt_at(seed: int) -> Run:
    """Return an action that is interrupted in the first run with this seed."""
    left = [seed]

    def interrupt(job: Job) -> None:
        if job.config.seed in left:
            left.remove(seed)
            raise KeyboardInterrupt

    return interrupt


def runs_of(during: list[Run]) -> list[tuple[int, str]]:
    """Record the seed of each run, and the name of the directory that it resumes."""
    runs = list[tuple[int, str]]()
    during.insert(0, lambda job: runs.append((job.config.seed, Path(job.config.resume).name)))
    return runs


SWEEP = ["ppo", "--multirun", "seed=1,2,3", "ppo.kl_coef=0.02"]


def test_an_interrupted_sweep_goes_on_and_runs_no_member_twice(
    during: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    during.append(interrupt_at(2))
    runs = runs_of(during)
    assert main([*SWEEP, "resume=auto"]) == 130  # no sweep to go on with: a new one
    again = "continue with: rlhf ppo seed=1,2,3 ppo.kl_coef=0.02 resume=auto --multirun"
    assert again in capsys.readouterr().out
    assert main([*SWEEP, "resume=auto"]) == 0
    assert "seed=1 is done" in capsys.readouterr().out
    assert runs == [(1, ""), (2, ""), (2, ""), (3, "")]
    _, sweep = the_sweep()
    assert [x.objective for x in sweep.members] == [0.8, 1.8, 2.8] and sweep.done
    assert main([*SWEEP, "resume=auto"]) == 0  # all are done: another new one
    assert len([*Path("runs/ppo").glob("*/sweep.json")]) == 2


def test_a_member_with_a_checkpoint_is_resumed(during: list[Run]) -> None:
    def save(job: Job) -> None:
        manifest = job.run_dir / "checkpoints/step-000001/manifest.json"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text('{"command": "ppo"}')

    during += [save, interrupt_at(2)]
    runs = runs_of(during)
    assert main(SWEEP) == 130
    assert main([*SWEEP, "resume=auto"]) == 0
    assert runs == [(1, ""), (2, ""), (2, "seed=2"), (3, "")]


def test_a_command_without_checkpoints_goes_on_in_its_directory(during: list[Run]) -> None:
    during.append(lambda job: (job.run_dir / "candidates.jsonl").touch())
    during.append(interrupt_at(1))
    runs = runs_of(during)
    words = ["collect", "-m", "seed=1,2", "model.path=m", "data.prompts=p"]
    assert main(words) == 130
    assert main([*words, "resume=auto"]) == 0
    assert runs == [(1, ""), (1, "seed=1"), (2, "")]


def test_a_member_that_failed_is_tried_again(during: list[Run]) -> None:
    failures = [DataError("bad", "x.jsonl:1", "")]

    def fail(job: Job) -> None:
        if job.config.seed == 2 and failures:
            raise failures.pop()

    during.append(fail)
    runs = runs_of(during)
    assert main(SWEEP) == 3
    assert main([*SWEEP, "resume=auto"]) == 0
    assert runs == [(1, ""), (2, ""), (3, ""), (2, "")]


def test_a_sweep_of_other_words_is_not_resumed(during: list[Run]) -> None:
    during.append(interrupt_at(2))
    runs = runs_of(during)
    assert main(SWEEP) == 130
    assert main([*SWEEP[:-1], "ppo.kl_coef=0.1", "resume=auto"]) == 0
    assert main([*SWEEP, "--scorer=other.py:score", "resume=auto"]) == 0
    assert [seed for seed, _ in runs[2:]] == [1, 2, 3, 1, 2, 3]
    assert main([*SWEEP, "--json", "resume=auto"]) == 0  # the first one, which is not done
    assert [seed for seed, _ in runs[8:]] == [2, 3]


def test_a_named_directory_keeps_its_sweep(
    during: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ppo", "-m", "hydra.sweep.dir=here"]
    during.append(interrupt_at(2))
    assert main([*words, "seed=1,2"]) == 130
    before = Path("here/sweep.json").read_bytes()
    assert main([*words, "seed=3,4", "resume=auto"]) == 2
    assert "this directory holds a sweep of other options" in capsys.readouterr().err
    assert Path("here/sweep.json").read_bytes() == before
    assert main([*words, "seed=1,2", "resume=auto"]) == 0
    assert read_sweep(Path("here")).done


def test_a_sweep_that_runs_is_not_resumed(
    during: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    during.append(interrupt_at(2))
    assert main(SWEEP) == 130
    directory, _ = the_sweep()
    with lock_directory(directory):
        assert main([*SWEEP, "resume=auto"]) == 6
    assert "another run is writing to this directory" in capsys.readouterr().err
    assert main([*SWEEP, "resume=auto"]) == 0


def test_the_objective_may_be_chosen(during: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ppo", "-m", "seed=1,2", "sweep.objective=loss"]) == 0
    _, sweep = the_sweep()
    assert sweep.direction == "minimize" and [x.objective for x in sweep.members] == [-0.5, -1.5]
    assert main(["ppo", "-m", "seed=1", "sweep.objective=nothing", "name=b"]) == 0
    assert "there is no metric nothing" in capsys.readouterr().out
    assert the_sweep("b")[1].members[0].objective is None


def test_an_own_config_may_name_the_swept_values(during: list[Run]) -> None:
    Path("own").mkdir()
    text = "defaults: [ppo, _self_]\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
    Path("own/mine.yaml").write_text(text + "      seed: 1,2\n      ppo.kl_coef: 0.1,0.2\n")
    assert main(["ppo", "-cd", "own", "-cn", "mine"]) == 0
    assert len(the_sweep()[1].members) == 4


def test_a_sweep_of_an_own_config_goes_on(
    during: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own").mkdir()
    text = "defaults: [ppo, _self_]\nhydra:\n  mode: MULTIRUN\n  sweeper: {params: {seed: '1,2'}}\n"
    Path("own/mine.yaml").write_text(text)
    during.append(interrupt_at(2))
    runs = runs_of(during)
    assert main(["ppo", "-cd", "own", "-cn", "mine"]) == 130
    again = capsys.readouterr().out.partition("continue with: rlhf ")[2].split()
    assert main(again) == 0
    assert runs == [(1, ""), (2, ""), (2, "")]


def test_hydra_keys_place_a_sweep(during: list[Run]) -> None:
    words = ["hydra.sweep.dir=here", "hydra.sweep.subdir=${hydra.job.num}"]
    assert main(["ppo", "-m", "seed=5,6", *words]) == 0
    assert [x.directory for x in read_sweep(Path("here")).members] == ["0", "1"]


def test_the_working_directory_may_be_that_of_the_run(during: list[Run], tmp_path: Path) -> None:
    during.append(lambda job: Path("here").touch())
    assert main(["ppo", "hydra.job.chdir=true", "name=a"]) == 0
    assert main(["ppo", "hydra.job.chdir=true", "name=b", "-m", "seed=1,2"]) == 0
    assert (
        len([*Path("runs").glob("a/*/here")]) == len([*Path("runs").glob("a/*/config.yaml")]) == 1
    )
    assert len([*Path("runs").glob("b/*/seed=*/here")]) == 2
    assert [x.status for x in the_sweep("b")[1].members] == ["done", "done"]
    assert Path.cwd() == tmp_path


def test_members_lie_in_the_sweep(during: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ppo", "-m", "seed=1,2", "hydra.sweep.subdir=a/${seed}"]) == 2
    assert "without /" in capsys.readouterr().err


def test_json_prints_one_line_a_member(
    during: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ppo", "-m", "seed=1,2", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [-0.5, -1.5]
    assert not console().quiet


def test_a_sweep_that_is_refused_leaves_nothing(during: list[Run]) -> None:
    assert main(["ppo", "-m", "seed=1,2", "ppo.lr=fast,slow"]) == 2
    assert not [*Path("runs").glob("*/*")]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({"seed": "1", "ppo.kl_coef": "0.05"}, "seed=1,ppo.kl_coef=0.05"),
        ({"instruction": "What is it?"}, "7-instruction=What is it_"),
        ({"model.path": "runs/../a"}, "7-model.path=runs_.._a"),
        ({"name": ".."}, "7-name="),
        ({}, "7"),
    ],
)
def test_names_of_members(overrides: dict[str, str], name: str) -> None:
    assert member_directory(overrides, 7) == name
    assert len(member_directory({"name": "ü" * 500}, 7).encode()) < 255
