"""Time of an iteration over seven sizes, ours and trl's on the same LLaVA.

    python benchmarks/speed_curves.py                     every curve; 15 minutes on one core
    python benchmarks/speed_curves.py --curves response_tokens --add   one again
    python benchmarks/speed_curves.py --tiny              a quick check of the script

A small model, one epoch; in each curve one size changes. Points are medians of a few iterations
after one of warm-up; compare_trl.py measures ratios. Where trl is not installed the curves are ours
alone. Writes results/speed_curves.png and .json.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from baselines.environments import DIRECTORY, install
from baselines.rows import PPO, TINY
from baselines.runs import Job, Runner
from baselines.spec import Case
from baselines.timing_statistics import seconds
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

RESULTS = Path(__file__).parent / "results" / "speed_curves"
BASE = Case(
    num_layers=2,
    batch_size=16,
    minibatch_size=16,
    ppo_epochs=1,
    warmup_iterations=1,
    timed_iterations=3,
)
CURVES: dict[str, tuple[str, Sequence[int]]] = {
    "response_tokens": ("tokens of a response", (16, 32, 64, 128)),
    "batch_size": ("responses of an iteration", (8, 16, 32, 64)),
    "image_tokens": ("tokens of an image", (64, 256, 576)),
    "vocab_size": ("tokens of the vocabulary", (2_048, 8_000, 32_000)),
    "samples_per_prompt": ("responses to a prompt", (1, 2, 4, 8)),
    "questions_per_image": ("questions about an image", (1, 2, 4, 8)),
    "ppo_epochs": ("epochs over a rollout", (1, 2, 4)),
}
MAX_OVER_MEAN = 4  # longest response allowed, over the mean length
LINES = {PPO: ("trl_ppo", "separate"), "ours, shared critic": ("ours", "shared")}
VARIED_LENGTHS = "ours, random lengths"


def jobs(curve: str, base: Case) -> list[tuple[str, float, Job]]:
    """Return line, size and job of each point of a curve; a batch is one minibatch."""
    points = []
    for size in CURVES[curve][1]:
        case = replace(base, **{curve: size})
        case = replace(case, minibatch_size=case.batch_size)
        for line, (baseline, critic) in LINES.items():
            points.append((line, size, Job(baseline, replace(case, critic=critic))))
        if curve == "response_tokens":
            varied = replace(
                case, response_tokens=MAX_OVER_MEAN * size, eos_share=1 / size, critic="shared"
            )
            points.append((VARIED_LENGTHS, size, Job("ours", varied)))
    return points


def measure(curve: str, runner: Runner, base: Case) -> list[dict[str, Any]]:
    """Measure every point of a curve; where lengths are random, the size is their mean."""
    points = []
    for line, size, job in jobs(curve, base):
        if not runner.can_run(job):
            continue
        report = runner.run(job)
        if job.case.eos_share:
            size = fmean(report["tokens"]) / job.case.batch_size
        cpu_seconds = median(seconds(report["cpu"], "iteration"))
        points.append({"curve": curve, "line": line, "size": size, "seconds": cpu_seconds})
        runner.log(f"{curve} {size:g} {line}: {cpu_seconds:.3g} s")
    return points


def merge_points(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points of two runs in order; a new curve replaces the old one."""
    measured = {point["curve"] for point in new}
    points = [*(point for point in old if point["curve"] not in measured), *new]
    return sorted(points, key=lambda point: [*CURVES].index(point["curve"]))


def draw(points: Sequence[dict[str, Any]]) -> Figure:
    """Plot a panel for each curve."""
    names = list(dict.fromkeys(point["curve"] for point in points))
    figure = Figure(
        figsize=(4.5 * min(3, len(names)), 3.6 * -(-len(names) // 3)), layout="constrained"
    )
    panels = figure.subplots(-(-len(names) // 3), min(3, len(names)), squeeze=False).flat
    for name, axes in zip(names, panels, strict=False):
        _panel(axes, [point for point in points if point["curve"] == name], CURVES[name][0])
    for axes in list(panels):
        axes.remove()
    figure.axes[0].set_ylabel("CPU seconds an iteration")
    figure.axes[0].legend(fontsize=8)
    return figure


def _panel(axes: Axes, points: Sequence[dict[str, Any]], label: str) -> None:
    for line in dict.fromkeys(point["line"] for point in points):
        xy = sorted((p["size"], p["seconds"]) for p in points if p["line"] == line)
        axes.plot(*zip(*xy, strict=True), "o--" if line == VARIED_LENGTHS else "o-", label=line)
    axes.set(xlabel=label, xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--curves", nargs="+", default=[*CURVES], choices=[*CURVES])
    parser.add_argument("--tiny", action="store_true", help="a tiny model, seconds")
    parser.add_argument("--install", action="store_true", help="make missing environments first")
    parser.add_argument("--environments", type=Path, default=DIRECTORY)
    parser.add_argument("--add", action="store_true", help="keep the other curves of the results")
    parser.add_argument("--output", type=Path, help=f"default {RESULTS.name}; with --tiny none")
    arguments = parser.parse_args(argv)
    if arguments.install:
        install(arguments.environments)
    base = replace(BASE, **TINY) if arguments.tiny else BASE
    with tempfile.TemporaryDirectory() as scratch:
        runner = Runner(Path(scratch), arguments.environments, Console().log)
        points = [point for curve in arguments.curves for point in measure(curve, runner, base)]
    if output := arguments.output or (None if arguments.tiny else RESULTS):
        if arguments.add and output.with_suffix(".json").exists():
            points = merge_points(json.loads(output.with_suffix(".json").read_text()), points)
        output.with_suffix(".json").write_text(json.dumps(points, indent=2) + "\n")
        draw(points).savefig(output.with_suffix(".png"), dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
