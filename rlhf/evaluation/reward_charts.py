"""Charts of a reward model's metrics: its calibration, its margins, and its learning curve."""

from collections.abc import Iterable
from math import log2

from rlhf.evaluation.charts import (
    BOTTOM,
    LEFT,
    PADDING,
    RIGHT,
    TOP,
    Bar,
    Chart,
    Dot,
    Line,
    Scale,
    Tick,
    series_color,
    ticks,
)
from rlhf.evaluation.html import format_percent
from rlhf.evaluation.learning_curve import LearningCurve
from rlhf.evaluation.reward_metrics import RewardMetrics
from rlhf.evaluation.scored_pairs import Estimate

LABEL_WIDTH = 36  # SVG units between the numbers of pairs below a chart, at least


def calibration_chart(metrics: RewardMetrics) -> Chart:
    """Chart predicted against observed accuracy; a dot's area is proportional to its pairs."""
    x, y = Scale(0.5, 1, LEFT, RIGHT), Scale(0, 1, BOTTOM, TOP)
    largest = max(part.pairs for part in metrics.calibration)
    dots = [
        Dot(
            x(part.predicted),
            y(part.observed),
            round(2 + 5 * (part.pairs / largest) ** 0.5, 1),
            f"predicted {format_percent(part.predicted)}, right {format_percent(part.observed)}, "
            f"{part.pairs:,} pairs",
            note=f"{part.pairs:,}",
        )
        for part in metrics.calibration
    ]
    return Chart(
        "Calibration",
        "confidence of the model, and its accuracy at that confidence, with the number of pairs; "
        "equal on the dashed line",
        "confidence: σ of |margin|",
        [Tick(x(share), f"{share:.0%}") for share in (0.5, 0.6, 0.7, 0.8, 0.9, 1)],
        [Tick(y(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)],
        lines=[Line("", [(dot.x, dot.y) for dot in dots], series_color(0), 0)],
        dots=dots,
        diagonal=((x(0.5), y(0.5)), (x(1), y(1))),
    )


def learning_chart(curve: LearningCurve, start: Estimate) -> Chart:
    """Chart accuracy over the logarithm of the training pairs, with what to expect of twice them.

    Args:
        curve: accuracies of trainings on growing parts of the pairs.
        start: accuracy before training.
    """
    measured, expected = curve.accuracies, curve.expected
    points = [*zip(curve.sizes, measured, strict=True), (2 * curve.sizes[-1], expected)]
    steps = [log2(size / curve.sizes[-1]) for size in curve.sizes]
    fit = [*(min(1, curve.level + curve.slope * step) for step in steps), expected.value]
    lowest = min(0.5, start.value, *fit, *(x.low for _, x in points))
    x = Scale(log2(points[0][0]), log2(points[-1][0]), LEFT + PADDING, RIGHT - PADDING)
    y = Scale(100 * lowest, 100, BOTTOM, TOP)
    places = [x(log2(size)) for size, _ in points]
    colors = [series_color(0)] * len(measured) + [series_color(1)]
    intervals = [
        Line("", [(place, y(100 * part.low)), (place, y(100 * part.high))], color, part.value)
        for place, (_, part), color in zip(places, points, colors, strict=True)
    ]
    fitted = [(place, y(100 * value)) for place, value in zip(places, fit, strict=True)]
    dots = [
        Dot(place, y(100 * part.value), 4, _about(part), color=color)
        for place, (_, part), color in zip(places, points, colors, strict=True)
    ]
    begin = y(100 * start.value)
    return Chart(
        "Learning curve",
        "accuracy on the held-out pairs, %, with 95 % intervals; the last point is expected, "
        "not measured; dashed: before training",
        "decided pairs trained on, on a logarithmic scale",
        _apart(Tick(place, f"{size:,}") for place, (size, _) in zip(places, points, strict=True)),
        ticks(y),
        lines=[Line("", fitted, series_color(0), expected.value), *intervals],
        dots=dots,
        diagonal=((LEFT, begin), (RIGHT, begin)),
    )


def margin_chart(metrics: RewardMetrics) -> Chart:
    """Chart a histogram of the preferred response's margin: pairs left of 0 are scored wrong."""
    edges, counts = metrics.margin_edges, metrics.margin_counts
    half = len(counts) // 2
    x = Scale(edges[0], edges[-1], LEFT, RIGHT)
    y = Scale(0, max(*counts, 1), BOTTOM, TOP)
    width = round((RIGHT - LEFT) / len(counts) - 2, 1)
    bars = [
        Bar(
            x(edges[number]) + 1,
            y(count),
            width,
            round(BOTTOM - y(count), 1),
            f"var(--{'loss' if number < half else 'win'})",
            f"{edges[number]:.2f} to {edges[number + 1]:.2f}: {count:,} pairs",
        )
        for number, count in enumerate(counts)
    ]
    return Chart(
        "Margins",
        "score of the preferred response minus that of the other; "
        f"{sum(counts[:half]):,} pairs wrong, {sum(counts[half:]):,} right",
        "margin, score units",
        ticks(x),
        ticks(y, count=4, whole=True),
        bars=bars,
    )


def _about(estimate: Estimate) -> str:
    low, high = 100 * estimate.low, 100 * estimate.high
    return f"{estimate.name}: {format_percent(estimate.value)}, 95 %: {low:.1f} to {high:.1f} %"


def _apart(labels: Iterable[Tick]) -> list[Tick]:
    """Leave out labels that would touch the next one; the last stays."""
    kept: list[Tick] = []
    for tick in reversed([*labels]):
        if not kept or kept[-1].position - tick.position >= LABEL_WIDTH:
            kept.append(tick)
    return kept[::-1]
