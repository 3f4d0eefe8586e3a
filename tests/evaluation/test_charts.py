"""Where marks of charts lie: ticks at round values, each with a label of its own."""

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.evaluation.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Scale,
    line_chart,
    scatter_chart,
    smoothed,
    ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (1, 3, ["1.0", "1.5", "2.0", "2.5", "3.0"]),
        (-0.3, 0.12, ["-0.3", "-0.2", "-0.1", "0.0", "0.1"]),
        (0, 4200, ["0", "1,000", "2,000", "3,000", "4,000"]),
        (0, 4e-5, ["0", "1e-05", "2e-05", "3e-05", "4e-05"]),
        (0.69314, 0.69316, ["0.693140", "0.693145", "0.693150", "0.693155", "0.693160"]),
    ],
)
def test_ticks_are_round_values(low: float, high: float, labels: list[str]) -> None:
    tick_labels = [tick.label for tick in ticks(Scale(low, high, LEFT, RIGHT))]
    assert [float(x.replace(",", "")) for x in tick_labels] == [
        float(x.replace(",", "")) for x in labels
    ]


def test_a_count_has_whole_ticks() -> None:
    assert [tick.label for tick in ticks(Scale(0, 3, 0, 90), whole=True)] == ["0", "1", "2", "3"]
    assert [tick.label for tick in ticks(Scale(7, 7, 0, 90), whole=True)] == ["7"]


@pytest.mark.parametrize("high", [1.0, 1.0000000000000002])
def test_values_that_rounding_alone_tells_apart_have_one_tick(high: float) -> None:
    assert [tick.label for tick in ticks(Scale(1.0, high, LEFT, RIGHT))] == ["1"]


numbers = st.floats(-1e38, 1e38, allow_subnormal=False)


@given(numbers, numbers)
def test_ticks_lie_on_the_axis_and_no_two_labels_are_equal(first: float, second: float) -> None:
    low, high = sorted((first, second))
    axis_ticks = ticks(Scale(low, high, LEFT, RIGHT))
    positions = [tick.position for tick in axis_ticks]
    assert positions == sorted(positions) and positions[0] >= LEFT and positions[-1] <= RIGHT
    labels = [tick.label for tick in axis_ticks]
    assert 1 <= len(labels) <= 9 and len(set(labels)) == len(labels)


def test_lines_fill_the_plotting_area_and_keep_their_colours() -> None:
    curves = {"empty": [(0, nan)], "a": [(0, 1.0), (4, 3.0)], "b": [(2, 2.0)]}
    chart = line_chart("loss", "nats", curves)
    a, b = chart.lines
    assert list(a.points) == [(LEFT, BOTTOM), (RIGHT, TOP)] and a.last == 3
    assert list(b.points) == [((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2)]
    assert (a.color, b.color) == ("var(--series-2)", "var(--series-3)")


def test_without_a_finite_value_there_is_nothing_to_draw() -> None:
    assert not line_chart("lr", "", {"a": [(0, nan)], "b": []}).lines


def test_dots_keep_away_from_the_edges() -> None:
    chart = scatter_chart("score", "", "KL", {"a": (0.0, 1.0), "b": (2.0, -1.0)})
    assert all(LEFT < dot.x < RIGHT and TOP < dot.y < BOTTOM for dot in chart.dots)
    assert [dot.label for dot in chart.dots] == ["a", "b"]


def test_a_long_line_has_its_moving_mean_over_it() -> None:
    values = [0.0, 1.0] * 10  # 20 points: windows of 3, of 2 at the ends
    (line,) = line_chart("loss", "", {"a": list(enumerate(values))}).lines
    means = [0.5, *[1 / 3, 2 / 3] * 9, 0.5]
    assert [value for _, value in smoothed(list(enumerate(values)))] == pytest.approx(means)
    heights = [round(BOTTOM - (BOTTOM - TOP) * mean, 1) for mean in means]
    assert [y for _, y in line.smooth] == heights
    assert [x for x, _ in line.smooth] == [x for x, _ in line.points]
    (short,) = line_chart("loss", "", {"a": list(enumerate(values[:19]))}).lines
    assert not short.smooth
