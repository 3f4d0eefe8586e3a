"""Runs side by side: their curves, their last and best metrics, one chart a metric."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite, nan
from pathlib import Path

from rlhf.errors import DataError
from rlhf.storage.run_directory import run_directories
from rlhf.tracking.metrics import METRICS
from rlhf.tracking.reader import Curves, read_events, read_metrics

_SPENT = ("time/rollout", "time/update")  # what the seconds of a run are the sum of
Statistic = Callable[[Sequence[float]], float]
_COLUMNS: dict[str, tuple[str, Statistic]] = {  # heading: metric, metric of its values
    "score": ("objective/scores", lambda values: values[-1]),
    "best": ("objective/scores", max),
    "reward": ("objective/rlhf_reward", lambda values: values[-1]),
    "best reward": ("objective/rlhf_reward", max),
    "KL": ("objective/kl", lambda values: values[-1]),
    "tokens": ("tokens/responses_len_mean", lambda values: values[-1]),
    "loss": ("sft/loss", lambda values: values[-1]),
    "least loss": ("sft/loss", min),
    "accuracy": ("reward/validation_accuracy", lambda values: values[-1]),
    "best accuracy": ("reward/validation_accuracy", max),
}


@dataclass(frozen=True)
class Run:
    """What is known of a run: `seconds` and `win_rate` are NaN where nothing tells them."""

    name: str
    curves: Curves
    seconds: float
    win_rate: float = nan


def read_run(directory: Path, name: str) -> Run:
    """A run of ours, or of trl by its TensorBoard events; of a directory of runs the newest.

    Raises: DataError: the directory holds no metrics, or they cannot be read.
    """
    ours = [path for path in run_directories(directory) if (path / "metrics.jsonl").is_file()]
    try:
        if not ours:
            return Run(name, *read_events(directory))
        curves = read_metrics(ours[0])
        summary = ours[0] / "summary.json"
        told = json.loads(summary.read_text()) if summary.is_file() else {}
        spent = [value for k in _SPENT for _, value in curves.get(k, [])]
        rate = told.get("win_rate")
        return Run(name, curves, sum(spent) if spent else nan, nan if rate is None else rate)
    except (ValueError, KeyError, AttributeError) as error:
        fix = "name a run folder whose metrics.jsonl and summary.json are as they were written"
        raise DataError(f"the metrics cannot be read: {error}", str(directory), fix) from None


def distinct_names(directories: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; equal paths get a number."""
    paths = [path.resolve().parts for path in directories]
    ends = {parts: parts[-1:] for parts in paths}
    for length in range(2, max(map(len, paths)) + 1):
        shared = Counter(ends.values())
        ends = {k: k[-length:] if shared[end] > 1 else end for k, end in ends.items()}
    names = ["/".join(ends[parts]) for parts in paths]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def metrics_of(run: Run) -> dict[str, float]:
    """Last and best values of a run by heading, its win rate and seconds, where they are known."""
    metrics = {}
    for heading, (metric, statistic) in _COLUMNS.items():
        if values := [value for _, value in run.curves.get(metric, []) if isfinite(value)]:
            metrics[heading] = statistic(values)
    ends = {"win rate": run.win_rate, "seconds": run.seconds}
    return metrics | {name: value for name, value in ends.items() if isfinite(value)}


def by_episode(runs: Sequence[Run]) -> tuple[str, list[Curves]]:
    """What the curves run along: responses sampled if every run counted them, else steps."""
    if not all("episode" in run.curves for run in runs):
        return "step", [run.curves for run in runs]
    moved = []
    for run in runs:
        at = {step: int(count) for step, count in run.curves["episode"] if isfinite(count)}
        moved.append(
            {
                name: [(at[step], value) for step, value in points if step in at]
                for name, points in run.curves.items()
            }
        )
    return "responses sampled", moved


def charts(runs: Sequence[Run]) -> list[str]:
    """A chart of each metric that a run has, in the order of METRICS, the rest behind."""
    along, curves = by_episode(runs)
    found = {name for lines in curves for name in lines} - {"episode"}
    names = [name for name in METRICS if name in found] + sorted(found - METRICS.keys())
    return [chart(name, [lines.get(name, []) for lines in curves], along) for name in names]


def legend(runs: Sequence[Run]) -> str:
    """The colour of each run."""
    named = (
        f'<span style="color: {_color(n)}">●</span> {escape(x.name)}' for n, x in enumerate(runs)
    )
    return f"<p>{' &nbsp; '.join(named)}</p>"


def chart(name: str, lines: Sequence[Sequence[tuple[int, float]]], along: str) -> str:
    """One metric of any number of runs, each in the colour of its place."""
    head = f'<b>{escape(name)}</b><div class="dim">{escape(METRICS.get(name, ""))}</div>'
    drawn = {n: [p for p in points if isfinite(p[1])] for n, points in enumerate(lines)}
    points = [point for line in drawn.values() for point in line]
    if not points:
        return head + '<p class="dim">no finite value</p>'
    steps, values = zip(*points, strict=True)
    x0, wide = min(steps), max(steps) - min(steps) or 1
    y0, tall = min(values), max(values) - min(values) or 1.0
    marks = "".join(
        f'<path d="M56 {y}H306" stroke="var(--edge)"/><text x="50" y="{y + 4}">{value:.3g}</text>'
        for y, value in ((130 - 57.5 * k, y0 + tall * k / 2) for k in range(3))
    )
    shapes = "".join(
        _line([(56 + 250 * (x - x0) / wide, 130 - 115 * (y - y0) / tall) for x, y in line], n)
        for n, line in drawn.items()
        if line
    )
    return (
        f'{head}<svg viewBox="0 0 330 165" role="img" aria-label="{escape(name)}">{marks}'
        f'<g class="x"><text x="56" y="146">{x0:,}</text><text x="306" y="146">{x0 + wide:,}</text>'
        f'<text x="181" y="160">{along}</text></g>{shapes}</svg>'
    )


def _line(places: Sequence[tuple[float, float]], n: int) -> str:
    points, (x, y) = " ".join(f"{x:.1f},{y:.1f}" for x, y in places), places[-1]
    return (
        f'<polyline class="line" style="stroke: {_color(n)}" points="{points}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_color(n)}"/>'
    )


def _color(n: int) -> str:
    """Hues a golden angle apart are never near each other, however many there are."""
    return f"hsl({(215 + 137.5 * n) % 360:g} 62% 50%)"


def rows_of(
    metrics: Mapping[str, Mapping[str, float]],
) -> tuple[list[str], list[tuple[object, ...]]]:
    """Columns, those that some run has, and a row a run."""
    headings = [*_COLUMNS, "win rate", "seconds"]
    used = [name for name in headings if any(name in own for own in metrics.values())]
    rows: list[tuple[object, ...]] = [
        (name, *(own.get(k, "–") for k in used)) for name, own in metrics.items()
    ]
    return ["run", *used], rows
