"""The order of the runs of a comparison, and medians, quartiles and ratios of their times."""

from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Quartiles(NamedTuple):
    """Median, first and third quartile."""

    median: float
    q1: float
    q3: float


def mirrored_order(baselines: Sequence[T]) -> list[T]:
    """Return the baselines forwards, then backwards, so that drift affects all of them alike."""
    return [*baselines, *reversed(baselines)]


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return the median and quartiles of at least one value."""
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Quartiles(median(values), low, high)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Quartiles:
    """Return how many times as long theirs takes: of the medians, and of opposite quartiles."""
    a, b = quartiles(theirs), quartiles(ours)
    return Quartiles(a.median / b.median, a.q1 / b.q3, a.q3 / b.q1)


def seconds(iterations: Sequence[Mapping[str, float]], part: str) -> list[float]:
    """Return the seconds of a part of each iteration; `iteration` is the sum of all parts."""
    return [sum(parts.values()) if part == "iteration" else parts[part] for parts in iterations]
