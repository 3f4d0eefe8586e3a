"""Runs of sweeps: settings over their seeds, in order, and nothing that failed is left out."""

from math import isnan, sqrt
from pathlib import Path

import pytest

from rlhf.errors import DataError
from rlhf.evaluation.comparison_page import metric_charts, metric_names, series_numbers
from rlhf.evaluation.run_comparison import table_rows
from rlhf.evaluation.sweep_comparison import (
    read_runs,
    seed_intervals,
    setting_rows,
    unfinished_rows,
)
from rlhf.storage.sweep import Sweep, write_sweep
from tests.support.sweeps import OBJECTIVE, add_member, write_kl_sweep, write_metrics

T = 4.302653  # Student's quantile of two degrees of freedom, 95 %


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_kl_sweep(tmp_path / "runs" / "ppo" / "0007-20261129-205228")


def test_members_that_differ_only_in_seed_are_one_setting(sweep: Path) -> None:
    intervals = seed_intervals(read_runs([sweep]))
    assert list(intervals) == ["ppo.kl_coef=0.1", "ppo.kl_coef=0.05", "ppo.kl_coef=0.2"]
    mean, half_width, n = intervals["ppo.kl_coef=0.05"][OBJECTIVE]
    assert (mean, n) == (3.0, 3)
    assert half_width == pytest.approx(T * sqrt(7.0) / sqrt(3), rel=1e-6)
    assert intervals["ppo.kl_coef=0.1"]["score"] == (4.0, 0.0, 2)


def test_a_row_a_setting_says_how_many_runs_it_is_of(sweep: Path) -> None:
    columns, rows = setting_rows(read_runs([sweep]))
    assert columns == ["ppo.kl_coef", "done", OBJECTIVE, "score", "best", "seconds"]
    assert [row[:3] for row in rows] == [
        ("0.1", "2 of 3", "4 ± 0 (2)"),
        ("0.05", "3 of 3", "3 ± 6.6 (3)"),
        ("0.2", "3 of 3", "0.5 ± 1.2 (3)"),
    ]


def test_a_row_a_member_has_the_swept_options(sweep: Path) -> None:
    columns, rows = table_rows(read_runs([sweep]))
    expected = ["seed", "ppo.kl_coef", OBJECTIVE, "score", "best", "seconds", "status"]
    assert columns == expected and len(rows) == 9
    assert rows[0] == ("0", "0.1", 4.0, 4.0, 4.0, 6.0, "done")
    failed = ("2", "0.1", "–", "–", "–", "–", "failed")
    assert rows[2] == failed


def test_what_failed_is_listed_with_its_reason(sweep: Path) -> None:
    add_member(sweep, 9, {"seed": "3", "ppo.kl_coef": "0.2"}, [9.0], status="running")
    runs = read_runs([sweep])
    assert unfinished_rows(runs) == [
        ("seed=2,ppo.kl_coef=0.1", "failed: memory ran out (ppo.rollout_batch_size)"),
        ("seed=3,ppo.kl_coef=0.2", "running"),
    ]
    assert seed_intervals(runs)["ppo.kl_coef=0.2"]["score"].n == 3  # those that ended


def test_the_least_is_first_where_less_is_better(tmp_path: Path) -> None:
    runs = read_runs([write_kl_sweep(tmp_path / "0001-20261129-205228", direction="minimize")])
    settings = [name.removeprefix("ppo.kl_coef=") for name in series_numbers(runs)]
    assert settings == ["0.2", "0.05", "0.1"]


def test_seeds_of_a_setting_share_a_colour(sweep: Path) -> None:
    runs = read_runs([sweep])
    chart = next(
        chart for chart in metric_charts(runs, metric_names(runs)) if chart.title == OBJECTIVE
    )
    assert chart.x_label == "responses sampled" and len(chart.lines) == 8
    colors = dict[str, set[str]]()
    for line in chart.lines:
        colors.setdefault(line.label.split(",")[1], set()).add(line.color)
    assert colors == {
        "ppo.kl_coef=0.1": {"var(--series-1)"},
        "ppo.kl_coef=0.05": {"var(--series-2)"},
        "ppo.kl_coef=0.2": {"var(--series-3)"},
    }


def test_sweeps_and_runs_side_by_side(sweep: Path, tmp_path: Path) -> None:
    other = write_kl_sweep(sweep.with_name("0008-20261130-205228"))
    write_metrics(tmp_path / "alone", [5.0])
    runs = read_runs([tmp_path / "alone", sweep, other])
    assert [run.name for run in runs[:2]] == ["alone", f"{sweep.name}/seed=0,ppo.kl_coef=0.1"]
    assert len({run.name for run in runs}) == 19 and len(series_numbers(runs)) == 7
    columns, rows = setting_rows(runs)
    assert columns[:2] == ["setting", "done"] and rows[0][0] == f"{sweep.name}/ppo.kl_coef=0.1"
    assert "alone" not in seed_intervals(runs) and len(seed_intervals(runs)) == 6
    columns, rows = table_rows(runs)
    row = dict(zip(columns, rows[0], strict=True))
    assert (row["seed"], row["status"], row["score"]) == ("–", "–", 5.0)


def test_a_sweep_over_seeds_alone_is_one_setting(tmp_path: Path) -> None:
    sweep = tmp_path / "0003-20261129-205228"
    sweep.mkdir()
    write_sweep(sweep, Sweep("ppo", OBJECTIVE))
    for seed in range(2):
        add_member(sweep, seed, {"seed": str(seed)}, [float(seed)])
    assert list(seed_intervals(read_runs([sweep]))) == [sweep.name]
    assert list(seed_intervals(read_runs([sweep, sweep]))) == [
        f"{sweep.name} (1)",
        f"{sweep.name} (2)",
    ]


def test_one_run_of_a_setting_has_no_interval(tmp_path: Path) -> None:
    write_sweep(tmp_path, Sweep("ppo", OBJECTIVE))
    add_member(tmp_path, 0, {"ppo.lr": "1"}, [2.0])
    runs = read_runs([tmp_path])
    assert isnan(seed_intervals(runs)["ppo.lr=1"]["score"].half_width)
    assert setting_rows(runs)[1][0][:3] == ("1", "1 of 1", "2 (1)")


def test_members_without_curves_are_compared_by_their_summaries(tmp_path: Path) -> None:
    write_sweep(tmp_path, Sweep("evaluate"))
    member = add_member(tmp_path, 0, {"sampling.temperature": "1"}, [1.0])
    (member / "metrics.jsonl").unlink()
    runs = read_runs([tmp_path])
    assert setting_rows(runs) == (
        ["sampling.temperature", "done", "win_rate"],
        [("1", "1 of 1", "0.5 (1)")],
    )
    assert metric_names(runs) == []


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("empty sweep", "no run of this sweep has begun"),
        ("runs/ppo", "there are only sweeps here"),
        ("notes", "there are no metrics here"),
    ],
)
def test_what_is_no_run_and_no_sweep_is_refused(
    sweep: Path, tmp_path: Path, name: str, what: str
) -> None:
    (tmp_path / "empty sweep").mkdir()
    write_sweep(tmp_path / "empty sweep", Sweep("ppo"))
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError) as refusal:
        read_runs([sweep, tmp_path / name])
    lines = str(refusal.value).splitlines()
    assert lines[:2] == [what, str(tmp_path / name)] and len(lines) == 3
    assert name != "runs/ppo" or str(sweep) in lines[2]
