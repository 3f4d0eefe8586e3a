"""A learning curve: its fit by hand, its bounds, its joint interval and its sentences."""

import pytest
import torch

from rlhf.evaluation.charts import BOTTOM, TOP
from rlhf.evaluation.learning import Trainings
from rlhf.evaluation.learning_curve import LearningCurve, fit_log_pairs, learning_curve
from rlhf.evaluation.reward_charts import learning_chart
from rlhf.evaluation.scored_pairs import Estimate
from tests.evaluation.test_reward_metrics import scored, with_accuracy


def curve_of(*shares: float, sizes: tuple[int, ...] = (50, 100, 150), images: int = 100):  # noqa: ANN201
    trained = tuple(with_accuracy(share, images) for share in shares)
    return learning_curve(Trainings(with_accuracy(0.5, images), trained, sizes))


def test_the_fit_of_three_points_by_hand() -> None:
    """x = -2, -1, 0 with weights 1, 2, 4 of 7 have mean -4/7 and Σ w (x - mean)² = 26/49.

    Of y = 0.5, 0.6, 0.8 the mean is 0.7 and Σ w (x - mean) y = 4.2/49: the slope is 4.2/26.
    """
    level, slope = fit_log_pairs((1, 2, 4), torch.tensor([[0.5, 0.6, 0.8]], dtype=torch.float64))
    assert float(slope) == pytest.approx(4.2 / 26)
    assert float(level) == pytest.approx(0.7 + 4.2 / 26 * 4 / 7)


def test_points_on_a_line_lie_on_the_fit() -> None:
    sizes = (30, 77, 150)
    x = (torch.tensor(sizes, dtype=torch.float64) / 150).log2()
    level, slope = fit_log_pairs(sizes, torch.stack([0.8 + 0.05 * x, 0.6 - 0.01 * x]))
    assert level.tolist() == pytest.approx([0.8, 0.6])
    assert slope.tolist() == pytest.approx([0.05, -0.01])


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.5, 0.7, 0.99), 1.0),  # never above 1
        ((0.8, 0.9, 0.7), 0.7),  # never below the last
        ((0.6, 0.6, 0.6), 0.6),
    ],
)
def test_what_to_expect_is_bounded(shares: tuple[float, ...], expected: float) -> None:
    curve = curve_of(*shares)
    assert curve.expected.value == pytest.approx(expected)
    assert curve.expected.low <= expected <= curve.expected.high <= 1
    assert curve.expected.name == "300 pairs" and curve.expected.pairs == 100


def test_what_to_expect_is_the_fit_at_twice_the_pairs() -> None:
    curve = curve_of(0.5, 0.6, 0.8, sizes=(1, 2, 4))
    assert curve.expected.value == pytest.approx(0.7 + 4.2 / 26 * (1 + 4 / 7))
    assert (curve.level, curve.slope) == pytest.approx((0.7923077, 0.1615385))
    assert [x.value for x in curve.accuracies] == pytest.approx([0.5, 0.6, 0.8])
    assert curve.scalars() == {
        "reward/third_accuracy": 0.5,
        "reward/two_thirds_accuracy": pytest.approx(0.6),
        "reward/expected_accuracy": curve.expected.value,
    }


def test_all_trainings_share_their_resamples() -> None:
    """Pairs that are scored alike by all have no slope in any resample, but a wide accuracy."""
    curve = curve_of(0.6, 0.6, 0.6)
    assert (curve.slope_low, curve.slope_high) == pytest.approx((0, 0), abs=1e-12)
    assert curve.accuracies[0].high - curve.accuracies[0].low > 0.1
    assert curve.expected.low == pytest.approx(curve.accuracies[2].low)


def test_images_are_resampled_whole() -> None:
    """Fifty pairs each of two images, one of which the last training gets right."""
    images = [0] * 50 + [1] * 50
    first, last = (
        scored([-1.0] * 100, images=images),
        scored([1.0] * 50 + [-1.0] * 50, images=images),
    )
    curve = learning_curve(Trainings(first, (first, first, last), (50, 100, 150)))
    assert curve.slope_low == 0 and curve.slope_high == pytest.approx(2 * curve.slope)
    assert curve.images == 2


@pytest.mark.parametrize(
    ("slope_low", "images", "sentence"),
    [
        (0.01, 20, "with 300 pairs you might expect 81 % (74 to 88 %)"),
        (
            -0.02,
            20,
            "more pairs of this kind may not help: twice as many change the fit by 3.0 points "
            "(-2.0 to 8.0)",
        ),
        (0.01, 19, "what more pairs would give cannot be told from 60 pairs"),
    ],
)
def test_the_sentence(slope_low: float, images: int, sentence: str) -> None:
    expected = Estimate("300 pairs", 60, 0.812, 0.741, 0.879)
    curve = LearningCurve((50, 100, 150), (), 0.78, 0.03, slope_low, 0.08, expected, images)
    assert curve.sentence == sentence and curve.as_dict()["sentence"] == sentence


def test_a_rising_curve_tells_what_to_expect() -> None:
    rising = curve_of(0.5, 0.65, 0.7)
    assert rising.sentence.startswith("with 300 pairs you might expect 83 % (7")
    assert curve_of(0.6, 0.6, 0.6).sentence.startswith("more pairs of this kind may not help")


def test_the_chart_has_a_dot_for_each_size_and_one_expected() -> None:
    curve = curve_of(0.5, 0.6, 0.8, sizes=(50, 100, 200))
    start = Estimate("before training", 100, 0.55, 0.45, 0.65)
    chart = learning_chart(curve, start)
    xs = [dot.x for dot in chart.dots]
    assert [b - a for a, b in zip(xs, xs[1:], strict=False)] == pytest.approx(
        [xs[1] - xs[0]] * 3, abs=0.2
    )
    assert [tick.label for tick in chart.x_ticks] == ["50", "100", "200", "400"]
    assert [dot.color for dot in chart.dots] == ["var(--series-1)"] * 3 + ["var(--series-2)"]
    fitted, *intervals = chart.lines
    assert fitted.points[-1] == (xs[-1], chart.dots[-1].y)
    for dot, interval in zip(chart.dots, intervals, strict=True):
        (x, low), (_, high) = interval.points
        assert x == dot.x and high <= dot.y <= low  # y grows downwards in SVG
    assert chart.diagonal is not None and chart.diagonal[0][1] == chart.diagonal[1][1]


def test_the_line_of_a_falling_fit_stays_in_the_chart() -> None:
    curve = curve_of(1.0, 0.5, 0.5, images=2_000)
    assert curve.level < min(x.low for x in curve.accuracies) and curve.level + curve.slope < 0.2
    chart = learning_chart(curve, Estimate("", 100, 0.5, 0.4, 0.6))
    fitted, *_ = chart.lines
    assert fitted.points[-1][1] == chart.dots[-1].y == chart.dots[-2].y
    assert all(TOP <= y <= BOTTOM for line in chart.lines for _, y in line.points)


def test_labels_that_would_touch_are_left_out() -> None:
    start = Estimate("", 100, 0.5, 0.4, 0.6)
    chart = learning_chart(curve_of(0.5, 0.6, 0.8, sizes=(1_000, 1_900, 2_000)), start)
    assert [tick.label for tick in chart.x_ticks] == ["1,000", "2,000", "4,000"]
