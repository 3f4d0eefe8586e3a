"""Compare runs: a table of last and best metrics, and a page with a chart for each metric."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path

from rlhf.errors import DataError
from rlhf.evaluation.charts import Chart, line_chart, series_color
from rlhf.evaluation.html import metric_table, write_page
from rlhf.storage.run_directory import run_directories
from rlhf.tracking.metrics import METRICS
from rlhf.tracking.reader import Curves, read_events, read_metrics

_TIMES = ("time/rollout", "time/update")  # their sum is the time of a PPO run
Statistic = Callable[[Sequence[float]], float]


def _last(values: Sequence[float]) -> float:
    return values[-1]


_COLUMNS: dict[str, tuple[str, Statistic]] = {  # heading: metric, statistic of its values
    "score": ("objective/scores", _last),
    "best": ("objective/scores", max),
    "reward": ("objective/rlhf_reward", _last),
    "best reward": ("objective/rlhf_reward", max),
    "KL": ("objective/kl", _last),
    "tokens": ("tokens/responses_len_mean", _last),
    "loss": ("sft/loss", _last),
    "least loss": ("sft/loss", min),
    "accuracy": ("reward/validation_accuracy", _last),
    "best accuracy": ("reward/validation_accuracy", max),
}


@dataclass(frozen=True)
class Run:
    """The logged metrics of a run.

    Attributes:
        name: unique among the runs compared.
        curves: metric to (step, value).
        seconds: the time it took; NaN where it is not known.
        win_rate: from its summary, 0 to 1; NaN where there is none.
    """

    name: str
    curves: Curves
    seconds: float
    win_rate: float = nan


def read_run(directory: Path, name: str) -> Run:
    """Read the metrics of a run of this project, or of trl by its TensorBoard events.

    Args:
        directory: a run directory, or one that holds runs, of which the newest is read.
        name: what the run is called in the comparison.

    Raises:
        DataError: the directory holds no metrics, or they cannot be read.
    """
    run_dirs = [path for path in run_directories(directory) if (path / "metrics.jsonl").is_file()]
    try:
        if not run_dirs:
            return Run(name, *read_events(directory))
        curves = read_metrics(run_dirs[0])
        summary_file = run_dirs[0] / "summary.json"
        summary = json.loads(summary_file.read_text()) if summary_file.is_file() else {}
        seconds = [value for metric in _TIMES for _, value in curves.get(metric, [])]
        win_rate = summary.get("win_rate")
        return Run(
            name, curves, sum(seconds) if seconds else nan, nan if win_rate is None else win_rate
        )
    except (ValueError, KeyError, AttributeError) as error:
        fix = "name a run directory whose metrics.jsonl and summary.json are as they were written"
        raise DataError(f"the metrics cannot be read: {error}", str(directory), fix) from None


def distinct_names(directories: Sequence[Path]) -> list[str]:
    """Return the shortest distinct suffix of each path; equal paths get a number."""
    paths = [path.resolve().parts for path in directories]
    ends = {parts: parts[-1:] for parts in paths}
    for length in range(2, max(map(len, paths)) + 1):
        uses = Counter(ends.values())
        ends = {k: k[-length:] if uses[end] > 1 else end for k, end in ends.items()}
    names = ["/".join(ends[parts]) for parts in paths]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def last_and_best(run: Run) -> dict[str, float]:
    """Return the last and best values of a run by heading, its win rate and its seconds.

    Values that were not logged or are not finite are left out.
    """
    metrics = {}
    for heading, (metric, statistic) in _COLUMNS.items():
        if values := [value for _, value in run.curves.get(metric, []) if isfinite(value)]:
            metrics[heading] = statistic(values)
    run_values = {"win rate": run.win_rate, "seconds": run.seconds}
    return metrics | {name: value for name, value in run_values.items() if isfinite(value)}


def by_episode(runs: Sequence[Run]) -> tuple[str, list[Curves]]:
    """Put the curves of all runs on a common x axis.

    Returns:
        The label of the axis and the curves of each run: over the responses sampled if every run
        counted them (`episode`), else over steps.
    """
    if not all("episode" in run.curves for run in runs):
        return "step", [run.curves for run in runs]
    aligned = []
    for run in runs:
        responses_at = {
            step: int(count) for step, count in run.curves["episode"] if isfinite(count)
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


def metric_charts(runs: Sequence[Run]) -> list[Chart]:
    """Build a chart for each metric, with a line for each run.

    Returns:
        Charts in the order of METRICS, then those of other metrics by name.
    """
    x_label, curves = by_episode(runs)
    metrics = {name for by_metric in curves for name in by_metric} - {"episode"}
    names = [name for name in METRICS if name in metrics] + sorted(metrics - METRICS.keys())
    return [
        line_chart(
            name,
            METRICS.get(name, ""),
            {
                run.name: by_metric.get(name, [])
                for run, by_metric in zip(runs, curves, strict=True)
            },
            x_label=x_label,
            legend=False,
        )
        for name in names
    ]


def write_run_comparison(
    path: Path,
    runs: Sequence[Run],
    metrics: Mapping[str, Mapping[str, float]],
    notes: Sequence[str],
) -> None:
    """Write the page as one self-contained HTML file; every text is escaped.

    Args:
        path: the file to write.
        runs: in the order of their colours.
        metrics: name of the run to its `last_and_best` values.
        notes: lines below the heading.

    Raises:
        OSError: the file cannot be written.
    """
    write_page(
        path,
        "run_comparison.html.j2",
        title=f"{len(runs)} runs compared",
        notes=notes,
        metrics=metric_table("run", metrics),
        legend=[(run.name, series_color(number)) for number, run in enumerate(runs)],
        plots=metric_charts(runs),
    )


def table_rows(
    metrics: Mapping[str, Mapping[str, float]],
) -> tuple[list[str], list[tuple[object, ...]]]:
    """Lay out runs for `console.table`.

    Args:
        metrics: name of the run to its `last_and_best` values.

    Returns:
        The headings, without those that no run has, and a row for each run.
    """
    headings = [*_COLUMNS, "win rate", "seconds"]
    used = [name for name in headings if any(name in values for values in metrics.values())]
    rows: list[tuple[object, ...]] = [
        (name, *(values.get(heading, "–") for heading in used)) for name, values in metrics.items()
    ]
    return ["run", *used], rows
