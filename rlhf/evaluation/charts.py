"""Compute the layout of charts: positions of lines, dots, bars and ticks for `macros.html.j2`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from statistics import fmean

WIDTH, HEIGHT = 340, 206  # of the drawing, SVG units; y grows downwards
LEFT, RIGHT, TOP, BOTTOM = 52, 324, 12, 164  # of the plotting area
PADDING = 10  # between the plotting area and its outermost dots, in a scatter chart
MIN_SMOOTHED = 20  # points of a curve that is smoothed
SMOOTHED_SHARE = 0.1  # of a curve's points in a mean
SERIES_COLORS = 6  # that the style sheet defines, for light and dark

Point = tuple[float, float]
Curve = Sequence[tuple[int, float]]  # (step, value)


@dataclass(frozen=True)
class Scale:
    """A linear map from values to positions.

    Attributes:
        low: the value at `start`.
        high: the value at `end`; equal to `low` if all values are equal.
        start: position in SVG units.
        end: position in SVG units.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the position of a value, to 0.1 SVG units; the middle if `low` is `high`."""
        length = self.high - self.low
        share = (value - self.low) / length if length else 0.5
        return round(self.start + (self.end - self.start) * share, 1)


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    position: float
    label: str


@dataclass(frozen=True)
class Line:
    """A polyline.

    Attributes:
        label: the name of the line; "" if it needs none.
        points: positions in SVG units, at least one.
        color: a CSS color.
        last: its last value.
        smooth: positions of its moving mean, drawn over it; empty for a short line.
    """

    label: str
    points: Sequence[Point]
    color: str
    last: float
    smooth: Sequence[Point] = ()


@dataclass(frozen=True)
class Dot:
    """A point of a scatter chart.

    Attributes:
        x: position of the centre.
        y: position of the centre.
        radius: in SVG units.
        title: its tooltip.
        label: its name below the chart; "" for none.
        color: a CSS color.
        note: written above it; "" for none.
    """

    x: float
    y: float
    radius: float
    title: str = ""
    label: str = ""
    color: str = "var(--accent)"
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram.

    Attributes:
        x: position of its left edge.
        y: position of its top.
        width: in SVG units.
        height: in SVG units.
        color: a CSS color.
        title: its tooltip.
    """

    x: float
    y: float
    width: float
    height: float
    color: str
    title: str


@dataclass(frozen=True)
class Chart:
    """A chart ready to draw; without lines, dots and bars it says "no finite value".

    Attributes:
        title: what it shows.
        subtitle: its meaning and unit.
        x_label: what the x axis shows.
        x_ticks: labelled positions along the x axis.
        y_ticks: labelled positions along the y axis, each with a grid line.
        lines: drawn in order.
        dots: drawn over the lines.
        bars: of a histogram.
        diagonal: ends of a dashed line to compare with, or None.
        legend: whether the lines are named below.
        scales: of x and y, by which a page tells values from positions; None: it does not.
    """

    title: str
    subtitle: str
    x_label: str = ""
    x_ticks: Sequence[Tick] = ()
    y_ticks: Sequence[Tick] = ()
    lines: Sequence[Line] = ()
    dots: Sequence[Dot] = ()
    bars: Sequence[Bar] = ()
    diagonal: tuple[Point, Point] | None = None
    legend: bool = False
    scales: tuple[Scale, Scale] | None = None


def series_color(number: int) -> str:
    """Return the CSS colour of line `number`, counted from 0; every line has its own."""
    if number < SERIES_COLORS:
        return f"var(--series-{number + 1})"
    hue = 137.5 * number % 360  # multiples of the golden angle never coincide
    return f"hsl({hue:g} 55% var(--lightness))"


def line_chart(
    title: str,
    subtitle: str,
    curves: Mapping[str, Curve],
    *,
    x_label: str = "step",
    legend: bool = True,
    series: Mapping[str, int] | None = None,
) -> Chart:
    """Lay out curves over a common x axis.

    Args:
        title: what they show.
        subtitle: its meaning and unit.
        curves: name to (step, value); values that are not finite are left out, and curves without
            any other value are not drawn, but keep their colour.
        x_label: what the x axis counts.
        legend: whether the lines are named below the chart.
        series: name to the number of its colour, which several curves may share; None: each curve
            has its own.

    Returns:
        A chart whose axes span the finite values.
    """
    finite = {name: [p for p in curve if isfinite(p[1])] for name, curve in curves.items()}
    points = [point for curve in finite.values() for point in curve]
    if not points:
        return Chart(title, subtitle)
    steps, values = zip(*points, strict=True)
    x = Scale(min(steps), max(steps), LEFT, RIGHT)
    y = Scale(min(values), max(values), BOTTOM, TOP)
    numbers = series or {name: number for number, name in enumerate(curves)}

    def placed(curve: Curve) -> list[Point]:
        return [(x(step), y(value)) for step, value in curve]

    lines = [
        Line(
            name, placed(curve), series_color(numbers[name]), curve[-1][1], placed(smoothed(curve))
        )
        for name, curve in finite.items()
        if curve
    ]
    axes = {"x_label": x_label, "x_ticks": ticks(x, whole=True), "y_ticks": ticks(y)}
    return Chart(title, subtitle, **axes, lines=lines, legend=legend, scales=(x, y))  # type: ignore[arg-type]


def smoothed(curve: Curve) -> Curve:
    """Return the moving mean of a curve, centred, shorter at its ends; nothing of a short curve."""
    if len(curve) < MIN_SMOOTHED:
        return []
    half = max(1, round(SMOOTHED_SHARE * len(curve) / 2))
    values = [value for _, value in curve]
    windows = (values[max(0, n - half) : n + half + 1] for n in range(len(values)))
    return [(step, fmean(window)) for (step, _), window in zip(curve, windows, strict=True)]


def scatter_chart(title: str, subtitle: str, x_label: str, points: Mapping[str, Point]) -> Chart:
    """Lay out named points.

    Args:
        title: what the y axis shows.
        subtitle: its meaning and unit.
        x_label: what the x axis shows.
        points: name to finite (x, y), at least one.

    Returns:
        A chart with a dot for each point, each in a colour, named below.
    """
    xs, ys = zip(*points.values(), strict=True)
    x = Scale(min(xs), max(xs), LEFT + PADDING, RIGHT - PADDING)
    y = Scale(min(ys), max(ys), BOTTOM - PADDING, TOP + PADDING)
    dots = [
        Dot(x(point[0]), y(point[1]), 5, name, name, series_color(number))
        for number, (name, point) in enumerate(points.items())
    ]
    return Chart(title, subtitle, x_label, ticks(x), ticks(y), dots=dots)


def ticks(scale: Scale, *, count: int = 5, whole: bool = False) -> list[Tick]:
    """Label round values (1, 2 or 5 times a power of ten) of a scale.

    Args:
        scale: the axis.
        count: about how many.
        whole: whole numbers only.

    Returns:
        The ticks within the scale; one where the scale holds (all but) a single value.
    """
    length, precision = scale.high - scale.low, 1e-12 * max(abs(scale.low), abs(scale.high))
    if length <= max(precision, 1e-300):
        return [Tick(scale(scale.low), f"{scale.low:,}" if whole else f"{scale.low:.3g}")]
    step = _round_step(length / (count - 1), whole=whole)
    numbers = range(ceil(scale.low / step - 1e-9), floor(scale.high / step + 1e-9) + 1)
    values = [number * step for number in numbers]
    label = _tick_format(max(map(abs, values)), step)
    return [Tick(scale(value), label(value)) for value in values]


def _round_step(step: float, *, whole: bool) -> float:
    """Round a step to 1, 2, 5 or 10 times its power of ten."""
    power = 10.0 ** floor(log10(step))
    rounded = min((1, 2, 5, 10), key=lambda factor: abs(factor * power - step)) * power
    return max(1.0, rounded) if whole else rounded


def _tick_format(largest: float, step: float) -> Callable[[float], str]:
    """Return a format with enough digits to distinguish ticks; with an exponent if it is long."""
    decimals = max(0, -floor(log10(step) + 1e-9))
    if decimals > 4 or largest >= 1e7:
        digits = max(1, floor(log10(largest)) - floor(log10(step) + 1e-9) + 1)
        return lambda value: f"{value:.{digits}g}"
    return lambda value: f"{value:,.{decimals}f}"
