"""Curves and metrics of several seeds: means, medians, an image, TensorBoard."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from baselines.learning_runs import Run

Curve = Sequence[Mapping[str, float]]

TAGS = {
    "objective/scores": "scores",
    "objective/kl": "kl",
    "tokens/responses_len_mean": "length",
    "episode": "samples",
}
# column of the table: the metric of a run, and how it is written.
COLUMNS: dict[str, tuple[Callable[[Run], float], str]] = {
    "win rate": (lambda run: run.metrics["win_rate"], ".1%"),
    "accuracy before": (lambda run: run.metrics["accuracy_before"], ".1%"),
    "after": (lambda run: run.metrics["accuracy_after"], ".1%"),
    "score": (lambda run: run.metrics["reward_after"], ".3f"),
    "KL, nats": (lambda run: run.metrics["kl"], ".2f"),
    "words": (lambda run: run.metrics["length_after"], ".1f"),
    "seconds": (lambda run: run.curve[-1]["seconds"], ".0f"),
}
PANELS = {"kl": "KL to the start, nats a response", "samples": "samples", "seconds": "seconds"}


def cell(column: str, runs: Sequence[Run]) -> str:
    """Median and range over seeds of a metric, as printed."""
    of, form = COLUMNS[column]
    found = [of(run) for run in runs]
    low, middle, high = (format(x, form) for x in (min(found), median(found), max(found)))
    return middle if low == high else f"{middle} [{low}, {high}]"


def middle_curve(curves: Sequence[Curve]) -> list[dict[str, float]]:
    """The median over seeds of every metric, iteration by iteration."""
    return [
        {name: median(line[name] for line in lines) for name in lines[0]}
        for lines in zip(*curves, strict=True)
    ]


def trailing(values: Sequence[float], count: int = 5) -> list[float]:
    """The mean of each value and of up to `count` - 1 before it."""
    return [fmean(values[max(0, end - count) : end]) for end in range(1, len(values) + 1)]


def draw(curves: Mapping[str, Sequence[Curve]]) -> Figure:
    """Reward against KL, samples and seconds: each seed thin, their median thick.

    What is drawn are trailing means over five iterations, of seeds that fell apart only as far as
    the others reach.
    """
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, 3, sharey=True), PANELS.items(), strict=True):
        for number, (title, several) in enumerate(curves.items()):
            for one in several:
                _line(axes, one, name, color=f"C{number}", linewidth=0.8, alpha=0.4)
            _line(axes, middle_curve(several), name, color=f"C{number}", linewidth=2.5, label=title)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].set(xlim=_reach(curves, "kl"), ylim=_reach(curves, "scores"))
    figure.axes[0].set_ylabel("score of the reward model")
    figure.axes[0].legend()
    return figure


def _reach(curves: Mapping[str, Sequence[Curve]], name: str) -> tuple[float, float]:
    """From the least to the most of all medians over seeds, and a quarter more."""
    found = [line[name] for several in curves.values() for line in middle_curve(several)]
    return min(found) - 0.25, max(found) + 0.25


def _line(axes: Axes, curve: Curve, name: str, **style: object) -> None:
    across = [line[name] for line in curve]
    if name == "kl":  # as noisy as the scores
        across = trailing(across)
    axes.plot(across, trailing([line["scores"] for line in curve]), **style)


def write_board(directory: Path, curve: Curve) -> None:
    """The curve as TensorBoard events: steps are episodes, relative time is that of training."""
    for old in directory.glob("events.out.tfevents.*"):
        old.unlink()
    now = time.time()
    with SummaryWriter(str(directory)) as board:
        for line in curve:
            for tag, name in TAGS.items():
                moment = now + line["seconds"]
                board.add_scalar(tag, line[name], int(line["samples"]), walltime=moment)
