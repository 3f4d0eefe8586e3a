"""The learning comparison where trl is not installed: starting point, runs, tables and plots."""

import json
import platform
import shutil
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlhf.tracking.metrics import METRICS
from tests.benchmarks.learning import metrics, runs, script, task_

LINE = {  # of metrics.jsonl, and what the comparison reads of it
    "step": 0,
    "episode": 4.0,
    "time/rollout": 1.0,
    "time/update": 2.0,
    "time/other": 0.5,
    "objective/scores": 2.0,
    "objective/kl": 0.25,
    "tokens/responses_len_mean": 3.0,
    "lr": 1.0,
}
CURVE = {"samples": 4.0, "seconds": 3.5, "scores": 2.0, "kl": 0.25, "length": 3.0}


def run_of(scores: Sequence[float], **changes: float) -> Any:
    """Return a run with these scores; each iteration has 4 samples and 2 seconds."""
    curve = [
        {"samples": 4 * n, "seconds": 2.0 * n, "scores": score, "kl": n - 1.0, "length": 3.0}
        for n, score in enumerate(scores, 1)
    ]
    defaults = dict.fromkeys(("win_rate", "accuracy_before", "accuracy_after", "length_after"), 0.5)
    return runs.Run(curve, {**defaults, "reward_after": 1.0, "kl": 1.5, **changes})


def test_the_last_demo_with_a_reward_model_is_the_starting_point(tmp_path: Path) -> None:
    for stamp, model in (("20250101", "one"), ("20250202", "two")):
        base = tmp_path / "demo" / f"run-{model}" / "model"
        base.mkdir(parents=True)
        note = tmp_path / "demo" / f"base-{model}" / "supervised.json"
        note.parent.mkdir()
        note.write_text(json.dumps({"run": f"runs/demo/run-{model}"}))
        card = tmp_path / "demo" / stamp / "reward" / "reward.json"
        card.parent.mkdir(parents=True)
        card.write_text(json.dumps({"base": str(base)}))
    for directory in (tmp_path, tmp_path / "demo"):
        start = runs.find_starting_point(directory)
        assert Path(start.model).parts[-2:] == ("run-two", "model")
        assert Path(start.reward).name == "20250202"
        assert Path(start.data).parts[-2:] == ("base-two", "data")
    shutil.rmtree(tmp_path / "demo" / "base-two")
    with pytest.raises(FileNotFoundError, match="has no data"):
        runs.find_starting_point(tmp_path)


def test_without_a_finished_demo_nothing_runs(tmp_path: Path) -> None:
    assert script.main(["--from", str(tmp_path), "--runs-dir", str(tmp_path)]) == 2
    assert not list(tmp_path.iterdir())


def test_baselines_that_are_not_installed_are_skipped_with_a_line(tmp_path: Path) -> None:
    lines: list[str] = []
    assert [x.name for x in runs.installed(runs.BASELINES, tmp_path, lines.append)] == ["ours"]
    assert [line.split(" needs ")[1].split()[0] for line in lines] == ["trl==1.12.0", "trl==1.16.0"]
    assert all(line.startswith("skipped: trl") for line in lines)


def test_results_of_a_run_with_equal_options_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def child(command: Sequence[str]) -> str:
        commands.append(list(command))
        (tmp_path / "metrics.jsonl").write_text(json.dumps(LINE) + "\n")
        return '{"win_rate": 0.75, "report": "somewhere"}'

    monkeypatch.setattr(runs, "child_output", child)
    start = task_.StartingPoint(model="m", reward="r", data="d")
    task = task_.Task(start=start, seed=0)
    for _ in range(2):
        run = runs.run(runs.BASELINES[0], task, tmp_path, tmp_path)
        assert run == runs.Run([CURVE], {"win_rate": 0.75})
    assert [command[2] for command in commands] == ["baselines.learning_ours", "rlhf"]
    assert commands[1][3:6] == ["evaluate", "m", str(tmp_path)]
    assert "data.prompts=d/evaluation.jsonl" in commands[1]
    runs.run(runs.BASELINES[0], task_.Task(start=start, seed=1), tmp_path, tmp_path)
    assert len(commands) == 4


def test_the_curve_of_dpo_has_the_steps_that_sampled_without_the_time_of_sampling(
    tmp_path: Path,
) -> None:
    step = {"episode": 4.0, "time/update": 2.0, "reward/margin": 0.5, "lr": 1.0}
    sampled = {**LINE, "time/other": 9.0, "user/accuracy": 0.75, "reward/margin": 0.5}
    del sampled["time/rollout"]
    lines = [{**sampled}, {**step, "step": 1, "episode": 8.0}]
    lines += [{**sampled, "step": 2, "episode": 12.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, last = task_.read_curve(tmp_path)
    assert first == {**CURVE, "seconds": 2.0, "accuracy": 0.75}
    assert last == {**CURVE, "samples": 12.0, "seconds": 6.0, "accuracy": 0.75}


def test_means_medians_and_ranges() -> None:
    first, second, third = run_of([1, 2], win_rate=0.9), run_of([3, 6], win_rate=0.8), run_of([0])
    middle = metrics.median_curve([first.curve, second.curve])
    assert [line["scores"] for line in middle] == [2.0, 4.0]
    assert [line["seconds"] for line in middle] == [2.0, 4.0]
    assert metrics.trailing_mean([6, 0, 3, 9], count=2) == [6, 3, 1.5, 6]
    assert metrics.cell("win rate", [first, second, third]) == "80.0% [50.0%, 90.0%]"
    assert metrics.cell("seconds", [first, second, third]) == "4 [2, 4]"
    assert metrics.cell("score", [first, second]) == "1.000"


def test_the_table_has_a_line_for_each_baseline() -> None:
    page = StringIO()
    by_title = {"ours": {0: run_of([1, 2]), 1: run_of([1], kl=0.5)}, "theirs": {0: run_of([1])}}
    Console(width=160, file=page).print(script.table(by_title))
    ours_line, their_line = (line for line in page.getvalue().splitlines() if "50.0%" in line)
    cells = [cell.strip() for cell in ours_line.split("│")[1:-1]]
    halves = ["50.0%", "50.0%", "50.0%", "1.000"]
    assert cells == ["ours", *halves, "1.00 [0.50, 1.50]", "0.5", "3 [2, 4]"]
    cells = [cell.strip() for cell in their_line.split("│")[1:-1]]
    assert cells == ["theirs", *halves, "1.50", "0.5", "2"]


def test_the_plot_has_three_panels_and_a_line_for_each_seed(tmp_path: Path) -> None:
    curves = {
        "ours": [run_of([1, 2]).curve, run_of([3, 6]).curve],
        "theirs": [run_of([5, 5]).curve],
    }
    plot = metrics.draw(curves)
    path = tmp_path / "x.png"
    plot.savefig(path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert len(plot.axes) == 3
    for axes, last in zip(plot.axes, (0.5, 8, 4.0), strict=True):
        lines = axes.get_lines()
        assert [len(line.get_xdata()) for line in lines] == [2] * 5
        assert (lines[2].get_xdata()[-1], lines[2].get_ydata().tolist()) == (last, [2.0, 3.0])
    labels = [text.get_text() for text in plot.axes[0].get_legend().get_texts()]
    assert labels == ["ours", "theirs"]


def test_a_second_metric_is_a_second_row() -> None:
    curves = {"ours": [[{**line, "accuracy": 0.5} for line in run_of([1, 2, 3]).curve]] * 2}
    curves["short"] = [curves["ours"][0][:2]]
    plot = metrics.draw(curves, {"scores": "score", "accuracy": "accuracy"})
    assert [axes.get_ylabel() for axes in plot.axes] == ["score", "", "", "accuracy", "", ""]
    assert plot.axes[4].get_lines()[0].get_ydata().tolist() == [0.5] * 3
    assert plot.axes[1].get_xlim()[1] == pytest.approx(1.02 * 8)


def test_a_seed_that_diverges_does_not_hide_the_others() -> None:
    runs_of_seeds = [run_of([1, last]).curve for last in (2, -80, 3)]
    axes = metrics.draw({"ours": runs_of_seeds}).axes[0]
    assert axes.get_lines()[3].get_ydata().tolist() == [1.0, 1.5]
    assert axes.get_ylim() == (0.75, 2.25)


def test_tensorboard_counts_samples_and_seconds_of_training(tmp_path: Path) -> None:
    assert metrics.TAGS.keys() <= METRICS.keys()
    for scores in ([9, 9, 9], [1, 2]):  # the second replaces the first
        metrics.write_tensorboard(tmp_path, run_of(scores).curve)
    board = EventAccumulator(str(tmp_path)).Reload()
    events = board.Scalars("objective/scores")
    assert [(event.step, event.value) for event in events] == [(4, 1.0), (8, 2.0)]
    assert events[1].wall_time - events[0].wall_time == pytest.approx(2.0)
    assert [event.value for event in board.Scalars("objective/kl")] == [0.0, 1.0]


def test_the_results_name_no_machine_and_no_path(tmp_path: Path) -> None:
    start = task_.StartingPoint(model=str(tmp_path), reward=str(tmp_path), data=str(tmp_path))
    record = script.to_json(
        {"ours": {3: run_of([1, 2])}}, task_.Task(start=start, seed=3), runs.BASELINES
    )
    text = json.dumps(record)
    assert str(tmp_path) not in text and f'"{platform.node()}"' not in text
    assert record["runs"]["ours"]["3"]["curve"]["scores"] == [1, 2]
    assert record["options"]["ppo"]["kl_coef"] == 0.05 and "torch" in record["versions"]
