"""Charts of a reward model's metrics: its calibration, and the margins of its scores."""

from rlhf.evaluation.charts import (
    BOTTOM,
    LEFT,
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
from rlhf.evaluation.reward_metrics import RewardMetrics


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
