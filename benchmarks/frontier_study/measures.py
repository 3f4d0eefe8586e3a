"""What is measured of a run: when it reaches a score, its frontier, its end, and its collapse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from baselines.learning_metrics import trailing_mean

Curve = Mapping[str, Sequence[float]]  # a value for each iteration, by name
SMOOTHED = 5  # iterations of a point of the frontier
LAST = 10  # iterations of the end of a run
MAX_KL = 25.0  # nats a response


@dataclass(frozen=True)
class Point:
    """A place on a frontier: smoothed values of one moment of a run."""

    kl: float
    score: float
    accuracy: float


def reached(curve: Curve, target: float, count: int = 3) -> int | None:
    """Return the first iteration at which the mean score of the last `count` is a target, or None.

    Args:
        curve: with `scores`.
        target: the score to reach.
        count: iterations of a mean.
    """
    scores = curve["scores"]
    ends = range(count, len(scores) + 1)
    return next((n - 1 for n in ends if fmean(scores[n - count : n]) >= target), None)


def end(curve: Curve, name: str) -> float:
    """Return the mean of a metric over the last iterations."""
    return fmean(curve[name][-LAST:])


def frontier(curve: Curve) -> list[Point]:
    """Return the points of a run, in its order, as trailing means."""
    names = ("kl", "scores", "accuracy")
    columns = [trailing_mean(curve[name], SMOOTHED) for name in names]
    return [Point(*values) for values in zip(*columns, strict=True)]


def at_kl(curve: Curve, budget: float) -> Point:
    """Return the best-scored point of a run whose KL is within a budget.

    Between two iterations a run goes straight, so that a point may lie exactly at the budget.
    The accuracy is that of the point that the score chooses.

    Args:
        curve: with `kl`, `scores` and `accuracy`.
        budget: nats a response, at least the KL of the first iteration.
    """
    points = frontier(curve)
    crossings = [
        _between(a, b, (budget - a.kl) / (b.kl - a.kl))
        for a, b in zip(points, points[1:], strict=False)
        if (a.kl < budget) != (b.kl < budget)
    ]
    within = [point for point in points if point.kl <= budget]
    return max([*within, *crossings] or points[:1], key=lambda point: point.score)


def _between(a: Point, b: Point, share: float) -> Point:
    mixed = (x + share * (y - x) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
    return Point(*mixed)


def collapsed(curve: Curve) -> bool:
    """Return whether a run ended below half of its best score or below its start, or far away.

    Both scores are means of ten iterations; far away is a KL of more than 25 nats.
    """
    scores, last = curve["scores"], end(curve, "scores")
    starts = range(max(1, len(scores) - LAST + 1))
    best = max(fmean(scores[n : n + LAST]) for n in starts)
    return best > 0 and last < best / 2 or last < scores[0] or end(curve, "kl") > MAX_KL
