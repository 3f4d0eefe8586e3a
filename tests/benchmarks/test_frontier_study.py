"""The frontier study without training: measures by hand, what runs again, the file, the table."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf.cli.hydra_compose import compose_options
from rlhf.config.schema import PPOConfig
from rlhf.config.validation import load_config
from rlhf.errors import UsageError
from tests.benchmarks.frontier import (
    choice,
    contenders,
    curve,
    planned,
    report,
    results,
    script,
    study,
    tasks,
)
from tests.benchmarks.learning import runs, task_

Planned, sweep, choose = planned.Planned, planned.sweep, choice.chosen

START = task_.StartingPoint(model="m", reward="r", data="d")
TASK = replace(tasks.TASKS["describe"], start=lambda _: START)
PPO, RLOO = contenders.CONTENDERS["ppo"], contenders.CONTENDERS["rloo"]
OWN = contenders.SETTINGS[0]  # the task's own learning rate and KL weight


def result_of(
    planned: Any, scores: Sequence[float], kl: Sequence[float], accuracy: float = 0.5
) -> Any:
    """Return the finished run of a planned one."""
    lines = report.lines_of(curve(scores, kl, accuracy))
    return study.measured(planned.expected, runs.Run(lines, {"accuracy": accuracy}))


def test_settings_multiply_the_options_of_the_task() -> None:
    planned = Planned(TASK, PPO, 0, {"ppo.lr": 2, "ppo.kl_coef": 0.5})
    config, own = planned.task().config, Planned(TASK, PPO, 0, OWN).task().config
    assert config.ppo.lr == 2 * own.ppo.lr and config.ppo.kl_coef == own.ppo.kl_coef / 2
    assert own.ppo.iterations == 40
    by_hand = replace(planned, options={"ppo.lr": 1.0, "ppo.gae_lambda": 0.5}).task().config
    assert (by_hand.ppo.lr, by_hand.ppo.gae_lambda) == (1.0, 0.5)
    assert Planned(TASK, RLOO, 0, OWN).task().config.ppo.samples_per_prompt == 4


def test_options_reach_the_command_line_as_they_are() -> None:
    options = {
        "ppo.critic_lr": None,
        "ppo.value_features": ["position"],
        "ppo.whiten_advantages": False,
    }
    task = Planned(TASK, PPO, 0, OWN, options).task()
    config = load_config(compose_options("ppo", task.overrides()))
    assert config.ppo == task.config.ppo
    assert config.ppo.value_features == ("position",) and not config.ppo.whiten_advantages


@pytest.mark.parametrize("contender", contenders.CONTENDERS.values())
def test_options_of_contenders_are_valid_on_every_task(contender: Any) -> None:
    for task in tasks.TASKS.values():
        for setting in contenders.SETTINGS:
            assert Planned(task, contender, 0, setting).task().config


def key_of(contender: Any, **ppo: Any) -> str:
    changes = {f"ppo.{name}": value for name, value in ppo.items()}
    start = task_.StartingPoint(model="", reward="", data="")
    task = task_.Task(start=start, seed=0, changes={**contender.changes, **changes})
    return str(contenders.options_key(contenders.options_read(contender, task)))


def test_runs_are_the_same_while_the_options_that_they_read_are() -> None:
    default = PPOConfig().gae_lambda
    assert key_of(PPO) == key_of(PPO, gae_lambda=default) != key_of(PPO, gae_lambda=0.9)
    dpo = contenders.CONTENDERS["trl_dpo"]
    assert key_of(dpo) == key_of(dpo, gae_lambda=0.9) != key_of(dpo, lr=1.0)
    assert len({key_of(contender) for contender in (PPO, RLOO, dpo)}) == 3


def test_stored_runs_are_those_of_today() -> None:
    """The key in results/frontier.json, from before there was an option of speed alone."""
    demo, contender = tasks.TASKS["demo"], contenders.CONTENDERS["group_critic"]
    assert Planned(demo, contender, 0, OWN).expected.key == "f3a0e9d7b4"
    fast = Planned(demo, contender, 0, OWN, {"sampling.cuda_graphs": True})
    assert fast.task().config.sampling.cuda_graphs and fast.expected.key == "f3a0e9d7b4"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a study whose runs take no time; `made` lists them."""
    made: list[str] = []

    def run(contender: Any, task: Any, directory: Path, *_: Any) -> Any:
        made.append(directory.name.rpartition("-")[0])
        if task.config.ppo.clip_range == 0.5:
            raise RuntimeError("exit code 1")
        scores = [1.0] * 5 + [2.0 + task.config.ppo.lr] * 10
        return runs.Run(report.lines_of(curve(scores, [0.5] * 15)), {"accuracy": 0.25})

    monkeypatch.setattr(study, "run", run)
    kept = results.Results(tmp_path / "results.json")
    made_by = study.Study(tmp_path, tmp_path, kept, 2, float("inf"), lambda _: None)
    return made_by, made


def test_finished_runs_are_not_made_again(bench: Any, tmp_path: Path) -> None:
    made_by, made = bench
    planned = [Planned(TASK, PPO, seed, OWN) for seed in (0, 1)]
    made_by.make(planned[:1])
    made_by.make(planned)
    assert made == ["ppo-0", "ppo-1"]
    again = replace(made_by, results=results.Results(tmp_path / "results.json"))
    again.make(planned)
    again.make([replace(planned[0], options={"ppo.gae_lambda": 0.5})])
    assert made == ["ppo-0", "ppo-1", "ppo-0"]


def test_a_failed_run_is_tried_again_and_others_go_on(bench: Any) -> None:
    made_by, made = bench
    failing = Planned(TASK, PPO, 0, OWN, {"ppo.clip_range": 0.5})
    for _ in range(2):
        made_by.make([failing, Planned(TASK, PPO, 1, OWN)])
    assert sorted(made) == ["ppo-0", "ppo-0", "ppo-1"]


def test_a_task_that_cannot_begin_is_left_out_and_others_go_on(bench: Any) -> None:
    made_by, made = bench
    lines: list[str] = []

    def no_start(_: Path) -> Any:
        raise UsageError("the photographs are missing", "here", "put them there")

    absent = replace(tasks.TASKS["stamps"], start=no_start)
    planned = [Planned(task, PPO, 0, OWN) for task in (absent, TASK)]
    replace(made_by, log=lines.append).make(planned)
    assert made == ["ppo-0"] and lines[0].startswith("stamps is left out\n")
    assert "put them there" in lines[0]


def test_after_the_deadline_no_run_starts(bench: Any) -> None:
    made_by, made = bench
    replace(made_by, deadline=0.0).make([Planned(TASK, PPO, 0, OWN)])
    assert made == []


def swept_with(made_by: Any, ends: dict[Any, Any]) -> None:
    """Add the sweep's runs of PPO: by learning rate and KL weight, a score a seed, and the KL."""
    for one in sweep(TASK, PPO):
        scores, kl = ends[one.setting["ppo.lr"], one.setting["ppo.kl_coef"]]
        score = scores[one.seed - 100]
        made_by.results.add(result_of(one, [1.0] + [score] * 10, [kl] * 11))


def test_the_sweep_chooses_by_score_minus_weighted_kl(bench: Any) -> None:
    made_by, _ = bench
    assert choose(made_by.results, TASK, PPO) == OWN
    assert len(sweep(TASK, PPO)) == 8 and {one.seed for one in sweep(TASK, PPO)} == {100, 101}
    far, collapsed = ((2.2, 2.2), 9.0), ((9.0, 9.0), 30.0)
    own, twice = ((2.0, 2.0), 0.5), ((2.1, 2.1), 1.0)
    swept_with(made_by, {(1, 1): own, (1, 0.5): far, (2, 1): twice, (2, 0.5): collapsed})
    assert choose(made_by.results, TASK, PPO) == {"ppo.lr": 2, "ppo.kl_coef": 1}
    assert choose(made_by.results, TASK, RLOO) == OWN
    assert all(result.curve == {} and result.end for result in made_by.results)


@pytest.mark.parametrize(("lower", "best"), [(0.09, (1, 1)), (0.11, (2, 1))])
def test_of_settings_within_a_standard_error_the_one_of_least_kl_is_chosen(
    bench: Any, lower: float, best: tuple[float, float]
) -> None:
    """Two runs a setting, 0.2 apart: variance 0.02, of the mean of two 0.01, its root is 0.1."""
    made_by, _ = bench

    def end(mean: float, kl: float) -> Any:  # the mean of score - 0.05 KL
        return (mean + 0.05 * kl - 0.1, mean + 0.05 * kl + 0.1), kl

    ends = {(1.0, 1.0): end(2.0 - lower, 0.5), (2.0, 1.0): end(2.0, 1.0)}
    swept_with(made_by, {**ends, (1.0, 0.5): end(1.99, 2.0), (2.0, 0.5): end(1.5, 0.1)})
    assert choose(made_by.results, TASK, PPO) == dict(zip(OWN, best, strict=True))


def test_files_of_different_days_are_merged(tmp_path: Path) -> None:
    planned = [Planned(TASK, x, seed, OWN) for x in (PPO, RLOO) for seed in (0, 1)]
    finished = [result_of(one, [1, 2, 3], [0, 1, 2]) for one in planned]
    first, second = (results.Results(tmp_path / f"{n}.json") for n in range(2))
    first.add(*finished[:3])
    second.add(*finished[2:])
    first.add(*results.read_results(second.path))
    assert results.read_results(first.path) == finished
    assert len(first.path.read_text().splitlines()) == 6  # a run a line
    assert json.loads(first.path.read_text())["runs"][0]["curve"]["scores"] == [1.0, 2.0, 3.0]
    assert script.main(["--merge", str(second.path), "--output", str(first.path)]) == 0
    assert results.read_results(first.path) == finished


def test_runs_of_other_models_are_not_mixed(bench: Any, tmp_path: Path) -> None:
    made_by, made = bench
    ours, theirs = (Planned(TASK, PPO, seed, OWN).expected for seed in (0, 1))
    kept = results.Results(tmp_path / "kept.json")
    kept.add(replace(ours, start="a"), replace(theirs, task="demo", start="b"))
    with pytest.raises(
        UsageError, match=r"runs of describe that began with other models \(a, not b"
    ):
        kept.add(replace(theirs, start="a"), replace(theirs, start="b"))
    assert len([*kept]) == 2
    lines: list[str] = []
    study_of = replace(made_by, results=kept, log=lines.append)
    study_of.make([Planned(TASK, PPO, 1, OWN)])
    assert made == [] and "began with other models" in lines[0]


def test_settings_of_long_tasks_are_those_of_short_ones(bench: Any) -> None:
    made_by, _ = bench
    scenes = tasks.TASKS["scenes"]
    swept = sweep(scenes, PPO)
    assert {one.frontier_task.name for one in swept} == {"describe"}
    for one in swept:
        score = 3.0 if one.setting == {"ppo.lr": 2, "ppo.kl_coef": 0.5} else 2.0
        made_by.results.add(result_of(one, [score] * 11, [0.0] * 11))
    assert choose(made_by.results, scenes, PPO) == {"ppo.lr": 2, "ppo.kl_coef": 0.5}


def test_the_report_has_every_finished_run_in_the_order_of_the_study(bench: Any) -> None:
    made_by, _ = bench
    for name, contender in (("scenes", PPO), ("demo", RLOO), ("demo", PPO)):
        planned = Planned(tasks.TASKS[name], contender, 0, OWN)
        made_by.results.add(result_of(planned, [1.0] * 11, [0.0] * 11))
    found = study.finished_runs(made_by.results, {})
    assert [(task, [*runs]) for task, runs in found.items()] == [
        ("demo", ["PPO", "RLOO"]),
        ("scenes", ["PPO"]),
    ]
    chosen = {"ppo.lr": 2, "ppo.kl_coef": 1}
    for one in sweep(tasks.TASKS["demo"], PPO):
        score = 3.0 if one.setting == chosen else 2.0
        made_by.results.add(result_of(one, [score] * 11, [0.0] * 11))
    one = Planned(tasks.TASKS["demo"], PPO, 0, chosen)
    made_by.results.add(result_of(one, [1.0] * 11, [0.0] * 11))
    found = study.finished_runs(made_by.results, {})["demo"]
    assert {title: runs[0].setting["ppo.lr"] for title, runs in found.items()} == {
        "PPO": 2,
        "PPO ×1": 1,
        "RLOO": 1,
    }
    assert study.finished_runs(made_by.results, {"ppo.gae_lambda": 0.5}) == {}


def test_a_run_of_the_sweep_is_not_evaluated(bench: Any) -> None:
    made_by, _ = bench
    evaluated = []
    study_run = study.run

    def run(*arguments: Any) -> Any:
        evaluated.append(arguments[-1])
        return study_run(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "run", run)
        planned = [Planned(TASK, PPO, seed, OWN) for seed in (100, 0)]
        replace(made_by, jobs=1).make(planned)
    assert evaluated == [study.not_evaluated, study.held_out]


def test_values_have_four_digits() -> None:
    assert results.rounded([1.23456, 123456.0, 0.000123456]) == [1.235, 123500.0, 0.0001235]


def test_table_and_chart_have_each_contender(tmp_path: Path) -> None:
    planned = [Planned(TASK, x, seed, OWN) for x in (PPO, RLOO) for seed in (0, 1)]
    kept = results.Results(tmp_path / "results.json")
    for one, last in zip(planned, (3.0, 3.0, 1.5, 2.5), strict=True):
        kept.add(result_of(one, [1.0] * 5 + [last] * 10, [0.0] * 5 + [2.0] * 10, 0.75))
    stale = replace(planned[0], options={"ppo.gae_lambda": 0.5})
    kept.add(result_of(stale, [9.0] * 15, [9.0] * 15))
    found = study.finished_runs(kept, {})
    text = report.write_report(found, kept.path)
    assert (tmp_path / "results.md").read_text() == text
    assert (tmp_path / "results_describe.png").stat().st_size > 10_000
    _, _, header, _, ppo, rloo = text.splitlines()
    names = [name.strip() for name in header.split("|")[1:-1]]
    rows = [dict(zip(names, line.split(" | "), strict=True)) for line in (ppo, rloo)]
    assert [row["contender"].strip("| ") for row in rows] == ["PPO", "RLOO"]
    assert [row["samples to 2.05"] for row in rows] == ["448 [448, 448]", "512, 1 of 2"]
    assert [row["seconds to 2.05"] for row in rows] == ["14 [14, 14]", "16, 1 of 2"]
    assert rows[0]["score at KL 2"] == "3.00 ± 0.00"
    assert rows[0]["score at KL 1.3"] == "2.30 ± 0.00"
    assert rows[1]["last score"] == "2.00 ± 6.35"  # t of one degree of freedom: 12.7
    assert rows[0]["held-out accuracy"] == "0.750 ± 0.000"
    assert rows[1]["tokens"] == "7.0 ± 0.0"


def test_options_by_hand_are_numbers_switches_or_texts() -> None:
    words = ["ppo.lr=1e-3", "ppo.profile=false", "ppo.critic=shared"]
    values = {"ppo.lr": 1e-3, "ppo.profile": False, "ppo.critic": "shared"}
    assert script.parse_options(words) == values
    for word in ("ppo.lr", "seed=1", "a.b.c=1"):
        with pytest.raises(UsageError, match="sets no option of a run"):
            script.parse_options([word])
