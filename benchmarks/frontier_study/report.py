"""The tables and the charts of the results."""

from collections.abc import Mapping, Sequence
from math import floor, isnan, log10
from pathlib import Path
from statistics import median

from baselines.learning_metrics import draw

from frontier_study.measures import Curve, at_kl, frontier, reached
from frontier_study.results import Result
from frontier_study.tasks import TASKS, FrontierTask
from rlhf.functional.intervals import mean_interval

BUDGETS = (1 / 3, 2 / 3, 1.0)  # of the KL that every contender reaches
PLOTTED = {"scores": "score", "accuracy": "accuracy, by a judge that nobody optimises"}
Runs = Mapping[str, Sequence[Result]]  # by title of the contender, over seeds


def write_report(runs: Mapping[str, Runs], path: Path) -> str:
    """Write the tables to a Markdown file and a chart for each task; return the tables.

    Args:
        runs: by the name of the task.
        path: of the results; the files have its name, charts with that of the task.
    """
    texts = []
    for name, by_contender in runs.items():
        task = TASKS[name]
        texts.append(f"**{task.name}**: {task.title}\n\n{table(task, by_contender)}\n")
        curves = {  # of the chosen settings
            title: [lines_of(result.curve) for result in results]
            for title, results in by_contender.items()
            if title.removesuffix(" ×1") == title or title.removesuffix(" ×1") not in by_contender
        }
        draw(curves, PLOTTED).savefig(path.with_name(f"{path.stem}_{task.name}.png"), dpi=110)
    path.with_suffix(".md").write_text("\n".join(texts))
    return "\n".join(texts)


def table(task: FrontierTask, runs: Runs) -> str:
    """Return the measures of a task as a Markdown table, a row for each contender."""
    budgets = kl_budgets(runs)
    names = ["contender", "rate ×", "KL weight ×", "seeds"]
    names += [f"samples to {task.target:g}", f"seconds to {task.target:g}"]
    names += [f"score at KL {x:g}" for x in budgets] + [f"accuracy at KL {budgets[-1]:g}"]
    names += ["last score", "KL", "accuracy", "held-out accuracy", "tokens", "collapsed"]
    rows = [_cells(task, title, results, budgets) for title, results in runs.items()]
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def kl_budgets(runs: Runs) -> list[float]:
    """Return three KLs, nats a response, that the median run of every contender reaches.

    The last one is the least of the contenders' medians of the greatest KL, the others a third and
    two thirds of it, rounded down to two digits.
    """
    greatest = min(
        median(max(point.kl for point in frontier(result.curve)) for result in results)
        for results in runs.values()
    )
    return [_rounded_down(max(greatest, 1e-3) * share) for share in BUDGETS]


def _cells(
    task: FrontierTask, title: str, results: Sequence[Result], budgets: Sequence[float]
) -> list[str]:
    points = [[at_kl(result.curve, budget) for result in results] for budget in budgets]
    setting = results[0].setting
    return [
        title,
        f"{setting['ppo.lr']:g}",
        f"{setting['ppo.kl_coef']:g}",
        f"{len(results)}",
        *(_first(results, task.target, column) for column in ("samples", "seconds")),
        *(_mean([point.score for point in column], 2) for column in points),
        _mean([point.accuracy for point in points[-1]], 3),
        _mean([result.end["scores"] for result in results], 2),
        _mean([result.end["kl"] for result in results], 2),
        _mean([result.end["accuracy"] for result in results], 3),
        _mean([result.held_out["accuracy"] for result in results], 3),
        _mean([result.end["length"] for result in results], 1),
        f"{sum(result.end['collapsed'] for result in results):.0f}",
    ]


def _first(results: Sequence[Result], target: float, column: str) -> str:
    """Return median and range of samples or seconds until a score, of the runs that reach it."""
    reaches = [(result.curve, reached(result.curve, target)) for result in results]
    values = [curve[column][number] for curve, number in reaches if number is not None]
    if not values:
        return "–"
    spread = f" [{min(values):.0f}, {max(values):.0f}]" if len(values) > 1 else ""
    missing = f", {len(values)} of {len(results)}" if len(values) < len(results) else ""
    return f"{median(values):.0f}{spread}{missing}"


def _mean(values: Sequence[float], digits: int) -> str:
    """Return a mean with its interval of 95 %, by Student's distribution."""
    interval = mean_interval(values)
    half = "" if isnan(interval.half_width) else f" ± {interval.half_width:.{digits}f}"
    return f"{interval.mean:.{digits}f}{half}"


def _rounded_down(value: float) -> float:
    scale = 10 ** (1 - floor(log10(value)))
    return floor(value * scale) / scale


def lines_of(curve: Curve) -> list[dict[str, float]]:
    """Return a curve as a mapping for each iteration."""
    return [dict(zip(curve, line, strict=True)) for line in zip(*curve.values(), strict=True)]
