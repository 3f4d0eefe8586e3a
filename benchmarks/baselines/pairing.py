"""What a side by side comes to: the order of runs, medians, quartiles and their ratios."""

from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Spread(NamedTuple):
    """Median and quartiles."""

    middle: float
    low: float
    high: float


def there_and_back(baselines: Sequence[T]) -> list[T]:
    """A B … B A: what drifts during the measurement falls on all alike."""
    return [*baselines, *reversed(baselines)]


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value; the quartiles lie within the values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), low, high)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times as long theirs takes: of the medians, and of opposite quartiles."""
    other, own = spread(theirs), spread(ours)
    return Spread(other.middle / own.middle, other.low / own.high, other.high / own.low)


def seconds(iterations: Sequence[Mapping[str, float]], part: str) -> list[float]:
    """Of each iteration: one part, or the sum of all where `part` is `iteration`."""
    return [sum(one.values()) if part == "iteration" else one[part] for one in iterations]
