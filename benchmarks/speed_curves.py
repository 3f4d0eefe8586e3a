"""How the time of an iteration grows, ours beside trl's on the same LLaVA.

    python benchmarks/speed_curves.py                     every curve; 15 minutes on one core
    python benchmarks/speed_curves.py --curves response --add   one anew
    python benchmarks/speed_curves.py --tiny              a tiny model: does the script run?

A small model, one epoch; in each curve one size changes. Medians of a few iterations after one to
warm up; no bar is tested here, see compare_trl.py for ratios. Where trl is not installed the
curves are ours alone. Writes results/speed_curves.png and .json.
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
from baselines.pairing import seconds
from baselines.rows import PPO, TINY
from baselines.runs import Entrant, Runs
from baselines.spec import Case
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

RESULTS = Path(__file__).parent / "results" / "speed_curves"
BASE = Case(layers=2, batch=16, minibatch=16, epochs=1, warmups=1, timed=3)
CURVES: dict[str, tuple[str, Sequence[int]]] = {
    "response": ("tokens of a response", (16, 32, 64, 128)),
    "batch": ("responses of an iteration", (8, 16, 32, 64)),
    "image_tokens": ("tokens of a picture", (64, 256, 576)),
    "vocabulary": ("tokens of the vocabulary", (2_048, 8_000, 32_000)),
    "samples": ("responses to a prompt", (1, 2, 4, 8)),
    "questions": ("questions about a picture", (1, 2, 4, 8)),
    "epochs": ("epochs over a rollout", (1, 2, 4)),
}
SKEW = 4  # the longest response that is allowed, over the mean length
LINES = {PPO: ("trl_ppo", "separate"), "ours, shared critic": ("ours", "shared")}
SKEWED = "ours, lengths of all sizes"


def entrants(curve: str, base: Case) -> list[tuple[str, float, Entrant]]:
    """Line, place and case of each point of a curve; a batch is one minibatch."""
    found = []
    for size in CURVES[curve][1]:
        case = replace(base, **{curve: size})
        case = replace(case, minibatch=case.batch)
        for line, (contender, critic) in LINES.items():
            found.append((line, size, Entrant(contender, replace(case, critic=critic))))
        if curve == "response":
            skewed = replace(case, response=SKEW * size, ends=1 / size, critic="shared")
            found.append((SKEWED, size, Entrant("ours", skewed)))
    return found


def measure(curve: str, runs: Runs, base: Case) -> list[dict[str, Any]]:
    """Every point of a curve; one whose lengths differ lies at its mean length."""
    found = []
    for line, size, entrant in entrants(curve, base):
        if not runs.can_run(entrant):
            continue
        report = runs.once(entrant)
        if entrant.case.ends:
            size = fmean(report["tokens"]) / entrant.case.batch
        spent = median(seconds(report["cpu"], "iteration"))
        found.append({"curve": curve, "line": line, "size": size, "seconds": spent})
        runs.say(f"{curve} {size:g} {line}: {spent:.3g} s")
    return found


def joined(kept: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The curves of an earlier run, and those of this one instead of or beside them, in order."""
    anew = {one["curve"] for one in found}
    points = [*(one for one in kept if one["curve"] not in anew), *found]
    return sorted(points, key=lambda one: [*CURVES].index(one["curve"]))


def draw(found: Sequence[dict[str, Any]]) -> Figure:
    """A panel for each curve, seconds from 0 up."""
    names = list(dict.fromkeys(one["curve"] for one in found))
    figure = Figure(
        figsize=(4.5 * min(3, len(names)), 3.6 * -(-len(names) // 3)), layout="constrained"
    )
    panels = figure.subplots(-(-len(names) // 3), min(3, len(names)), squeeze=False).flat
    for name, axes in zip(names, panels, strict=False):
        _panel(axes, [one for one in found if one["curve"] == name], CURVES[name][0])
    for axes in list(panels):
        axes.remove()
    figure.axes[0].set_ylabel("CPU seconds an iteration")
    figure.axes[0].legend(fontsize=8)
    return figure


def _panel(axes: Axes, points: Sequence[dict[str, Any]], label: str) -> None:
    for line in dict.fromkeys(one["line"] for one in points):
        own = sorted((one["size"], one["seconds"]) for one in points if one["line"] == line)
        axes.plot(*zip(*own, strict=True), "o--" if line == SKEWED else "o-", label=line)
    axes.set(xlabel=label, xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--curves", nargs="+", default=[*CURVES], choices=[*CURVES])
    parser.add_argument("--tiny", action="store_true", help="a tiny model, seconds")
    parser.add_argument("--install", action="store_true", help="make missing environments first")
    parser.add_argument("--environments", type=Path, default=DIRECTORY)
    parser.add_argument("--add", action="store_true", help="keep the other curves of the file")
    parser.add_argument("--output", type=Path, help=f"default {RESULTS.name}; with --tiny none")
    given = parser.parse_args(words)
    if given.install:
        install(given.environments)
    base = replace(BASE, **TINY) if given.tiny else BASE
    with tempfile.TemporaryDirectory() as scratch:
        runs = Runs(Path(scratch), given.environments, Console().log)
        found = [point for curve in given.curves for point in measure(curve, runs, base)]
    if output := given.output or (None if given.tiny else RESULTS):
        if given.add and output.with_suffix(".json").exists():
            found = joined(json.loads(output.with_suffix(".json").read_text()), found)
        output.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
        draw(found).savefig(output.with_suffix(".png"), dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
