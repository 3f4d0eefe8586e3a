"""Tables, plots and TensorBoard events of the learning curves of several seeds."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from baselines.learning_runs import Run
from baselines.learning_task import TAGS

Curve = Sequence[Mapping[str, float]]

# Column of the table: the metric of a run, and its format.
COLUMNS: dict[str, tuple[Callable[[Run], float], str]] = {
    "win rate": (lambda run: run.metrics["win_rate"], ".1%"),
    "accuracy before": (lambda run: run.metrics["accuracy_before"], ".1%"),
    "after": (lambda run: run.metrics["accuracy_after"], ".1%"),
    "score": (lambda run: run.metrics["reward_after"], ".3f"),
    "KL, nats": (lambda run: run.metrics["kl"], ".2f"),
    "words": (lambda run: run.metrics["length_after"], ".1f"),
    "seconds": (lambda run: run.curve[-1]["seconds"], ".0f"),
}
PANELS = {
    "kl": "KL to the supervised model, nats a response",
    "samples": "samples",
    "seconds": "seconds",
}
REWARD = {"scores": "score of the reward model"}
MARGINS = {"accuracy": 0.02}  # of an axis, beyond the medians


def cell(column: str, runs: Sequence[Run]) -> str:
    """Return the median and range over seeds of a metric, as text."""
    metric, form = COLUMNS[column]
    values = [metric(run) for run in runs]
    low, middle, high = (format(x, form) for x in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} [{low}, {high}]"


def median_curve(curves: Sequence[Curve]) -> list[dict[str, float]]:
    """Return the median over seeds of every metric, iteration by iteration."""
    return [
        {name: median(line[name] for line in lines) for name in lines[0]}
        for lines in zip(*curves, strict=True)
    ]


def trailing_mean(values: Sequence[float], count: int = 5) -> list[float]:
    """Return the mean of each value and of up to `count` - 1 before it."""
    return [fmean(values[max(0, end - count) : end]) for end in range(1, len(values) + 1)]


def draw(curves: Mapping[str, Sequence[Curve]], metrics: Mapping[str, str] = REWARD) -> Figure:
    """Plot metrics against KL, samples and seconds: each seed thin, their median thick.

    Values are trailing means over five iterations. The axes span the medians, so that a seed that
    diverged does not hide the others; that of samples ends where the shortest curve does.

    Args:
        curves: of the seeds of each baseline, by title.
        metrics: a row of panels each: name in the curves, and label.
    """
    figure = Figure(figsize=(15, 4.5 * len(metrics)), layout="constrained")
    rows = figure.subplots(len(metrics), len(PANELS), sharey="row", squeeze=False)
    for (metric, label), row in zip(metrics.items(), rows, strict=True):
        for axes, name in zip(row, PANELS, strict=True):
            _panel(axes, curves, name, metric)
        row[0].set(xlim=_axis_limits(curves, "kl"), ylim=_axis_limits(curves, metric))
        row[1].set_xlim(right=1.02 * min(x[-1]["samples"] for by in curves.values() for x in by))
        row[0].set_ylabel(label)
    figure.axes[0].legend()
    return figure


def _panel(axes: Axes, curves: Mapping[str, Sequence[Curve]], name: str, metric: str) -> None:
    for number, (title, by_seed) in enumerate(curves.items()):
        style = {"color": f"C{number}"}
        for curve in by_seed:
            _line(axes, curve, name, metric, **style, linewidth=0.8, alpha=0.4)
        middle = median_curve(by_seed)
        _line(axes, middle, name, metric, **style, linewidth=2.5, label=title)
    axes.set_xlabel(PANELS[name])
    axes.grid(alpha=0.3)


def _axis_limits(curves: Mapping[str, Sequence[Curve]], name: str) -> tuple[float, float]:
    """Return the range of all medians over seeds, wider on each side."""
    values = [line[name] for by_seed in curves.values() for line in median_curve(by_seed)]
    margin = MARGINS.get(name, 0.25)
    return min(values) - margin, max(values) + margin


def _line(axes: Axes, curve: Curve, name: str, metric: str, **style: object) -> None:
    x = [line[name] for line in curve]
    if name == "kl":  # as noisy as the scores
        x = trailing_mean(x)
    axes.plot(x, trailing_mean([line[metric] for line in curve]), **style)


def write_tensorboard(directory: Path, curve: Curve) -> None:
    """Write the curve as TensorBoard events whose steps are samples, timed as in training."""
    for old in directory.glob("events.out.tfevents.*"):
        old.unlink()
    now = time.time()
    with SummaryWriter(str(directory)) as writer:
        for line in curve:
            for tag, name in TAGS.items():
                wall_time = now + line["seconds"]
                writer.add_scalar(tag, line[name], int(line["samples"]), walltime=wall_time)
