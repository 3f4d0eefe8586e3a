"""The HTML page about a reward model: what its scores of held-out pairs are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import exp, isnan
from pathlib import Path

from PIL import Image

from rlhf.evaluation.html import curve, embedded, grid, write_page
from rlhf.evaluation.reward_metrics import (
    CANNOT_TELL,
    CHANCE_LOSS,
    LOOKS,
    Blindness,
    RewardMetrics,
    accuracy_spread,
)
from rlhf.evaluation.scored_pairs import Accuracy

_STYLE = """
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 9px 12px;
  align-items: center; margin-top: 12px; font-size: 14px }
.bars .dim { text-align: right }
.track { position: relative; height: 16px; border-radius: 4px; background: var(--page) }
.track * { position: absolute; border-radius: 4px }
.fill { height: 100%; background: var(--line); opacity: .28 }
.reach { height: 2px; top: 7px; background: var(--line) }
.dot { width: 8px; height: 8px; top: 4px; margin-left: -4px; background: var(--line) }
.half { left: 50%; top: -3px; bottom: -3px; border-left: 1px dashed var(--dim) }
.banner { border-left: 4px solid var(--tie) }
.side { border-top: 3px solid var(--edge); padding-top: 6px } .side p { white-space: pre-line }
.side.preferred { border-color: var(--win) } .word { color: var(--win); font-weight: 600 }
.word.model { color: var(--line) } svg rect:hover, svg circle:hover { opacity: .6 }
"""
_SENTENCES = {
    LOOKS: "With the right image it tells good from bad more often than without.",
    CANNOT_TELL: "The gap may well be 0 and may well not: judge more pairs, of more images.",
}
_IGNORED = "Without the right image it does as well: it judges the words, not what they say of it."


@dataclass(frozen=True)
class ReportPair:
    """One pair to look at; label as in ScoredPairs, scores in reward-model units."""

    image: Image.Image
    instruction: str
    response_a: str
    response_b: str
    score_a: float
    score_b: float
    label: float
    kind: str = ""


def write_reward_report(
    path: Path,
    *,
    title: str,
    metrics: RewardMetrics,
    blindness: Blindness | None,
    mistakes: Sequence[ReportPair],
    notes: Sequence[str] = (),
    right: Sequence[ReportPair] = (),
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]] | None = None,
    folds: Sequence[RewardMetrics] | None = None,
) -> None:
    """Write one HTML file that needs no script and no other file; every text is escaped.

    Args:
        blindness: None when it was not tested.
        mistakes, right: pairs to look at, shown in the order given.
        curves: of each chart, one or two lines of (step, value) by name.
        folds: metrics of the held-out pairs of each fold.
    """
    charts = [_calibration(metrics), _margins(metrics)]
    charts += [curve(name, lines) for name, lines in (curves or {}).items()]
    parts = [
        *grid("Held-out pairs", 165, _tiles(metrics)),
        *(_blindness(blindness) if blindness else []),
        *grid("Scores", 340, charts),
        *grid("Where it is right", 340, _bars_of_groups(metrics, folds or ())),
        *grid("Surest mistakes", 420, [_pair(pair) for pair in mistakes]),
        *grid("Right and sure of it", 420, [_pair(pair) for pair in right]),
    ]
    write_page(path, title=title, notes=notes, parts=parts, style=_STYLE)


def _percent(share: float) -> str:
    return "–" if isnan(share) else f"{100 * share:.1f} %"


def _interval(x: Accuracy) -> str:
    return "" if isnan(x.low) else f"95 %: {100 * x.low:.1f} to {100 * x.high:.1f} %"


def _tiles(metrics: RewardMetrics) -> list[str]:
    decided = metrics.accuracy.pairs
    equal = f", {metrics.equal_scores:,} scored equal" if metrics.equal_scores else ""
    tiles = {
        "accuracy": (_percent(metrics.accuracy.value), _interval(metrics.accuracy)),
        "log loss": (f"{metrics.log_loss:.3f}", f"nats a pair; chance is {CHANCE_LOSS:.3f}"),
        "calibration error": (_percent(metrics.calibration_error), "0 is perfect"),
        "pairs": (f"{metrics.pairs:,}", f"{decided:,} decided, {metrics.ties:,} ties{equal}"),
        "score and length": (
            f"{metrics.length_correlation:+.2f}",
            f"{metrics.length_rank_correlation:+.2f} by rank: correlation, all answers",
        ),
        "longer scored higher": (
            _percent(metrics.longer_scored_higher),
            f"longer preferred: {_percent(metrics.longer_preferred)}",
        ),
    }
    tile = '<div class="dim">{}</div><div class="big">{}</div><div class="dim">{}</div>'
    return [tile.format(name, *texts) for name, texts in tiles.items()]


def _blindness(found: Blindness) -> list[str]:
    """The verdict as a sentence, with the three accuracies under it."""
    color = {LOOKS: "win", CANNOT_TELL: "tie"}.get(found.verdict, "loss")
    known = "" if found.verdict == CANNOT_TELL else "This model "
    gap = "No pair is decided."
    if found.images:
        gap = (
            f"Own image minus the better of the other two: {100 * found.gap:+.1f} points, "
            f"95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}, "
            f"over {found.images:,} images."
        )
    verdict = f"{known}{found.verdict}."
    bars = _bars((found.own, found.shuffled, found.blank))
    return [
        "<h2>Blindness test</h2>",
        f'<div class="card banner" style="border-left-color: var(--{color})">'
        f'<div class="big">{verdict[0].upper()}{verdict[1:]}</div>'
        f"<p>{_SENTENCES.get(found.verdict, _IGNORED)}</p>"
        f'<p class="dim">{gap}</p>{bars}</div>',
    ]


def _bars_of_groups(metrics: RewardMetrics, folds: Sequence[RewardMetrics]) -> list[str]:
    named = [group for group in metrics.by_kind if group.name]
    cards = [
        "<b>Accuracy by length</b>"
        '<div class="dim">the preferred answer beside the other, in words; much: twice, half</div>'
        + _bars(metrics.by_length)
    ]
    if named:
        dim = '<div class="dim">of decided pairs; equal scores count half</div>'
        cards.append(f"<b>Accuracy by kind of pair</b>{dim}{_bars(named)}")
    if folds:
        spread = accuracy_spread(folds)
        ends = f"{_percent(spread.low)} to {_percent(spread.high)}"
        dim = (
            f'<div class="dim">mean {_percent(spread.mean)}, standard deviation '
            f"{100 * spread.std:.1f} points, {ends}</div>"
        )
        names = [f"fold {number}" for number in range(1, len(folds) + 1)]
        bars = _bars([fold.accuracy for fold in folds], names)
        cards.append(f"<b>Accuracy by fold</b>{dim}{bars}")
    return cards


def _bars(groups: Sequence[Accuracy], names: Sequence[str] = ()) -> str:
    """A row each: name, bar with its interval and the line of chance, value and count."""
    rows = []
    for name, x in zip(names or [group.name for group in groups], groups, strict=True):
        marks = '<span class="half"></span>'
        if x.pairs:
            value, low, high = (f"{100 * share:.1f}%" for share in (x.value, x.low, x.high))
            reach = f"left: {low}; right: calc(100% - {high})"
            marks = (
                f'<span class="fill" style="width: {value}"></span>{marks}'
                f'<span class="reach" style="{reach}"></span>'
                f'<span class="dot" style="left: {value}"></span>'
            )
        rows.append(
            f'<span>{escape(name)}</span><span class="track" title="{_interval(x)}">{marks}</span>'
            f'<span>{_percent(x.value)} <span class="dim">of {x.pairs:,}</span></span>'
        )
    return f'<div class="bars">{"".join(rows)}</div>'


def _calibration(metrics: RewardMetrics) -> str:
    """Predicted against observed share; the area of a dot is that of its pairs."""
    most = max(x.pairs for x in metrics.calibration)
    ticks = "".join(
        f'<path d="M46 {_up(y):.1f}H300" stroke="var(--edge)"/>'
        f'<text x="40" y="{_up(y) + 4:.1f}">{y:.0%}</text>'
        for y in (0, 0.25, 0.5, 0.75, 1)
    )
    marks = "".join(
        f'<text x="{_along(x):.1f}" y="188">{x:.0%}</text>' for x in (0.5, 0.6, 0.7, 0.8, 0.9, 1)
    )
    places = [(_along(x.predicted), _up(x.observed), x) for x in metrics.calibration]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2 + 5 * (part.pairs / most) ** 0.5:.1f}" '
        f'fill="var(--line)"><title>predicted {_percent(part.predicted)}, '
        f"right {_percent(part.observed)}, {part.pairs:,} pairs</title></circle>"
        for x, y, part in places
    )
    return (
        '<b>Calibration</b><div class="dim">how sure it is, and how often it is right; '
        "on the dashed line it is as right as it is sure</div>"
        f'<svg viewBox="0 0 320 208" role="img" aria-label="Calibration">{ticks}'
        f'<path d="M46 {_up(0.5)}L300 {_up(1)}" stroke="var(--dim)" stroke-dasharray="4 4"/>'
        f'<polyline class="line" style="stroke: var(--line); opacity: .4" points="{line}"/>{dots}'
        f'<g class="x">{marks}<text x="173" y="204">how sure: σ of |margin|</text></g></svg>'
    )


def _along(share: float) -> float:
    """Place of a predicted share from ½ to 1."""
    return 46 + 508 * (share - 0.5)


def _up(share: float) -> float:
    """Place of an observed share; y grows downwards."""
    return 170 - 160 * share


def _margins(metrics: RewardMetrics) -> str:
    """Histogram of the preferred answer's margin, wrong to the left of 0, right of it right."""
    edges, counts = metrics.margin_edges, metrics.margin_counts
    top, wide, reach = max(max(counts), 1), 290 / len(counts), edges[-1]
    bars = "".join(
        f'<rect x="{16 + wide * k:.1f}" y="{170 - 150 * count / top:.1f}" '
        f'width="{wide - 2:.1f}" height="{150 * count / top:.1f}" rx="2" '
        f'fill="var(--{"loss" if 2 * k < len(counts) else "win"})">'
        f"<title>{edges[k]:.2f} to {edges[k + 1]:.2f}: {count:,} pairs</title></rect>"
        for k, count in enumerate(counts)
    )
    marks = "".join(
        f'<text x="{161 + 145 * x}" y="188">{x * reach:.3g}</text>' for x in (-1, -0.5, 0, 0.5, 1)
    )
    wrong, right = (sum(part) for part in (counts[: len(counts) // 2], counts[len(counts) // 2 :]))
    return (
        '<b>Margins</b><div class="dim">score of the preferred answer minus that of the other; '
        f"{wrong:,} pairs wrong, {right:,} right</div>"
        '<svg viewBox="0 0 320 208" role="img" aria-label="Margins">'
        f'<path d="M16 170.5H306M161 12V170" stroke="var(--edge)"/>{bars}'
        f'<g class="x">{marks}<text x="161" y="204">margin, score units</text></g></svg>'
    )


def _pair(pair: ReportPair) -> str:
    """Image, question and both answers, with what the label says and what the model does."""
    sure = 1 / (1 + exp(-min(abs(pair.score_a - pair.score_b), 700)))
    sides = (
        _side("A", pair.response_a, pair.score_a, pair.label > 0.5, pair.score_a > pair.score_b),
        _side("B", pair.response_b, pair.score_b, pair.label < 0.5, pair.score_b > pair.score_a),
    )
    kind = f"{escape(pair.kind)} · " if pair.kind else ""
    return (
        f"{embedded(pair.image, pair.instruction)}<p><b>{escape(pair.instruction)}</b></p>"
        f'<div class="dim">{kind}the model is {_percent(sure)} sure</div>'
        f'<div class="pair">{"".join(sides)}</div>'
    )


def _side(name: str, text: str, score: float, preferred: bool, higher: bool) -> str:
    words = [f"{name} · {score:.3g}"]
    words += ['<span class="word">label</span>'] if preferred else []
    words += ['<span class="word model">model</span>'] if higher else []
    return (
        f'<div class="side{" preferred" if preferred else ""}">'
        f'<span class="dim">{" · ".join(words)}</span><p>{escape(text)}</p></div>'
    )
