"""Runs side by side: their names, their last and best values, and what their curves run along."""

from pathlib import Path

from rlhf.evaluation.charts import line_chart
from rlhf.evaluation.run_comparison import Run, by_episode, distinct_names, last_and_best


def test_names_are_the_shortest_ends_that_differ() -> None:
    paths = [Path(name) for name in ("/a/x/run", "/b/x/run", "/b/other", "/b/other/")]
    assert distinct_names(paths) == ["a/x/run", "b/x/run", "other (1)", "other (2)"]
    assert distinct_names([Path("/"), Path("/run")])[1] == "run"


def test_values_that_are_not_finite_count_for_nothing() -> None:
    nan = float("nan")
    run = Run("a", {"objective/scores": [(0, nan), (1, 3.0), (2, 1.0), (3, nan)]}, nan)
    assert last_and_best(run) == {"score": 1.0, "best": 3.0}


def test_curves_run_along_responses_only_if_all_counted_them() -> None:
    counted = Run("a", {"lr": [(0, 1.0), (1, 2.0)], "episode": [(0, 64.0), (1, 128.0)]}, 0)
    plain = Run("b", {"lr": [(0, 1.0)]}, 0)
    x_label, (by_responses,) = by_episode([counted])
    assert x_label == "responses sampled" and by_responses["lr"] == [(64, 1.0), (128, 2.0)]
    x_label, curves = by_episode([counted, plain])
    assert x_label == "step" and curves[0]["lr"] == [(0, 1.0), (1, 2.0)]


def test_many_runs_have_a_line_and_a_colour_each() -> None:
    chart = line_chart("lr", "", {str(n): [(0, float(n)), (1, 0.0)] for n in range(12)})
    assert len(chart.lines) == 12 == len({line.color for line in chart.lines})
