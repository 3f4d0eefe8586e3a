"""Intervals of means against SciPy, published quantiles, a hand calculation and simulation."""

from math import isnan, sqrt

import numpy as np
import pytest
from scipy import stats

from rlhf.functional.intervals import mean_interval, student_t_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (30, 2.042)]
)
def test_quantiles_are_those_of_the_printed_table(degrees: int, quantile: float) -> None:
    assert student_t_quantile(0.95, degrees) == pytest.approx(quantile, abs=5e-4)


@pytest.mark.parametrize("level", [0.01, 0.5, 0.95, 0.999])
def test_quantiles_are_those_of_scipy(level: float) -> None:
    for degrees in (*range(1, 30), 99, 1000, 1001):
        expected = stats.t.ppf((1 + level) / 2, degrees)
        assert student_t_quantile(level, degrees) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("level", "degrees"), [(0.0, 3), (1.0, 3), (0.95, 0)])
def test_values_out_of_range_are_refused(level: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="level, degrees"):
        student_t_quantile(level, degrees)


def test_three_values_by_hand() -> None:
    mean, half_width, n = mean_interval([1.0, 2.0, 6.0])
    assert (mean, n) == (3.0, 3)
    assert half_width == pytest.approx(4.302653 * sqrt(7.0) / sqrt(3), rel=1e-6)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert mean_interval([2.0])[::2] == (2.0, 1) and isnan(mean_interval([2.0]).half_width)
    assert isnan(mean_interval([]).mean) and mean_interval([]).n == 0


def test_the_true_mean_is_inside_as_often_as_promised() -> None:
    samples = np.random.default_rng(0).normal(3.0, 2.0, (4000, 3)).tolist()
    intervals = [mean_interval(values) for values in samples]
    inside = np.mean([abs(x.mean - 3.0) < x.half_width for x in intervals])
    assert abs(inside - 0.95) < 0.012  # 3.5 standard errors; 0.81 with a normal quantile
