"""A page about several runs: tables, the curves that matter first, the others in groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from rlhf.evaluation.charts import Chart, line_chart, series_color
from rlhf.evaluation.html import MetricTable, format_metric, write_page
from rlhf.evaluation.run_comparison import Run
from rlhf.tracking.metrics import METRICS
from rlhf.tracking.reader import Curves

FIRST = (  # metrics that matter most; the first six that runs have are shown at once
    "objective/scores",
    "objective/kl",
    "objective/rlhf_reward",
    "tokens/responses_len_mean",
    "policy/entropy_avg",
    "val/explained_variance_pooled",
    "val/explained_variance",
    "reward/validation_accuracy",
    "reward/validation_loss",
    "reward/loss",
    "reward/accuracy",
    "sft/loss",
)
FIRST_COUNT = 6


@dataclass(frozen=True)
class Group:
    """Charts that are folded together, of metrics with one beginning.

    Attributes:
        name: the beginning, such as `policy`.
        plots: its charts.
        constants: name and value of each metric that never changes and is the same in all runs.
    """

    name: str
    plots: Sequence[Chart]
    constants: Sequence[tuple[str, float]]


def by_episode(runs: Sequence[Run]) -> tuple[str, list[Curves]]:
    """Put the curves of all runs on a common x axis.

    Returns:
        The label of the axis and the curves of each run: over the responses sampled if every run
        counted them (`episode`), else over steps.
    """
    if not all("episode" in run.curves for run in runs if run.curves):
        return "step", [run.curves for run in runs]
    aligned = []
    for run in runs:
        responses_at = {
            step: int(count) for step, count in run.curves.get("episode", []) if isfinite(count)
        }
        aligned.append(
            {
                name: [
                    (responses_at[step], value) for step, value in points if step in responses_at
                ]
                for name, points in run.curves.items()
            }
        )
    return "responses sampled", aligned


def constant(name: str, curves: Sequence[Curves]) -> float | None:
    """Return the one value that a metric has in all runs at all times, or None."""
    points = (point for by_metric in curves for point in by_metric.get(name, []))
    values = {value for _, value in points if isfinite(value)}
    return values.pop() if len(values) == 1 else None


def metric_charts(runs: Sequence[Run], names: Sequence[str]) -> list[Chart]:
    """Build a chart for each metric, with a line for each run, in the colour of its series.

    Args:
        runs: in the order of their colours.
        names: of the metrics.
    """
    numbers = series_numbers(runs)
    x_label, curves = by_episode(runs)
    lines = {
        name: {run.name: by.get(name, []) for run, by in zip(runs, curves, strict=True)}
        for name in names
    }
    series = {run.name: numbers[run.series] for run in runs}
    return [
        line_chart(
            name, METRICS.get(name, ""), lines[name], x_label=x_label, legend=False, series=series
        )
        for name in names
    ]


def metric_names(runs: Sequence[Run]) -> list[str]:
    """Return the metrics that runs have: in the order of METRICS, then others by name."""
    found = {name for run in runs for name in run.curves} - {"episode"}
    return [name for name in METRICS if name in found] + sorted(found - METRICS.keys())


def arranged(runs: Sequence[Run]) -> tuple[list[Chart], list[Group]]:
    """Return the charts that come first, and the others in groups."""
    names, curves = metric_names(runs), [run.curves for run in runs]
    constants = {name: value for name in names if (value := constant(name, curves)) is not None}
    first = [name for name in FIRST if name in names and name not in constants][:FIRST_COUNT]
    groups: dict[str, list[str]] = {}
    for name in (name for name in names if name not in first):
        groups.setdefault(name.partition("/")[0], []).append(name)
    changing = [name for name in names if name not in constants]
    charts = dict(zip(changing, metric_charts(runs, changing), strict=True))
    return [charts[name] for name in first], [
        Group(
            group,
            [charts[name] for name in members if name in charts],
            [(name, constants[name]) for name in members if name in constants],
        )
        for group, members in groups.items()
    ]


def series_numbers(runs: Sequence[Run]) -> dict[str, int]:
    """Number the series of runs, in the order of their first runs."""
    return {name: number for number, name in enumerate(dict.fromkeys(x.series for x in runs))}


def write_run_comparison(
    path: Path,
    runs: Sequence[Run],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[object]]]],
    notes: Sequence[str],
    unfinished: Sequence[Sequence[object]] = (),
) -> None:
    """Write the page as one self-contained HTML file; every text is escaped.

    Args:
        path: the file to write.
        runs: in the order of their colours.
        tables: title to headings and rows, above the curves.
        notes: lines below the heading.
        unfinished: name and reason of each run that failed or did not end.

    Raises:
        ResourceError: the file cannot be written.
    """
    plots, groups = arranged(runs)
    write_page(
        path,
        "run_comparison.html.j2",
        title=f"{len(runs)} runs compared",
        notes=notes,
        tables={
            title: MetricTable(list(columns), [list(map(format_metric, row)) for row in rows])
            for title, (columns, rows) in tables.items()
        },
        unfinished=unfinished,
        legend=[(name, series_color(number)) for name, number in series_numbers(runs).items()],
        plots=plots,
        groups=groups,
    )
