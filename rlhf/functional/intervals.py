"""The mean of a few values, and how far it may lie from the true one."""

from collections.abc import Sequence
from math import cos, nan, pi, sin, sqrt, tan
from statistics import fmean, stdev
from typing import NamedTuple


class MeanInterval(NamedTuple):
    """Result of `mean_interval`.

    Attributes:
        mean: of the values; NaN if there is none.
        half_width: the interval is mean ± half_width; NaN for fewer than two values.
        n: how many values there are.
    """

    mean: float
    half_width: float
    n: int


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> MeanInterval:
    """Compute the mean of independent values with its confidence interval.

        x̄ ± t·s/√n        s² = Σ (x - x̄)²/(n - 1)

    with t the quantile of Student's distribution of n - 1 degrees of freedom: for three values 4.3,
    not the 1.96 of the normal distribution. Source: Student 1908, doi:10.2307/2331554.

    Args:
        values: n finite values.
        level: the share of such intervals that hold the true mean, if values are normal.
    """
    n = len(values)
    if n < 2:
        return MeanInterval(values[0] if values else nan, nan, n)
    quantile = student_t_quantile(level, n - 1)
    return MeanInterval(fmean(values), quantile * stdev(values) / sqrt(n), n)


def student_t_quantile(level: float, degrees: int) -> float:
    """Return t such that a variable of Student's distribution lies in ±t with probability `level`.

    Args:
        level: between 0 and 1, without them.
        degrees: of freedom ν, at least 1.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0 < level < 1 or degrees < 1:
        raise ValueError(f"level, degrees: got {level}, {degrees}, wanted 0 < level < 1 ≤ degrees")
    low, high = 0.0, pi / 2
    while low < (angle := (low + high) / 2) < high:  # until no number lies between
        low, high = (low, angle) if _share_within(angle, degrees) > level else (angle, high)
    return tan(low) * sqrt(degrees)


def _share_within(angle: float, degrees: int) -> float:
    """Return P(|T| < √ν·tan θ), a finite sum; Abramowitz and Stegun 26.7.3 and 26.7.4."""
    odd = degrees % 2
    term, total = cos(angle) if odd else 1.0, 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= cos(angle) ** 2 * (power + 1) / (power + 2)
    return (angle + sin(angle) * total) * 2 / pi if odd else sin(angle) * total
