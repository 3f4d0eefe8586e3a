"""The HTML page about a reward model: its metrics on held-out pairs, and what it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path

from PIL import Image

from rlhf.evaluation.charts import Curve, line_chart
from rlhf.evaluation.html import EmbeddedImage, embed_image, format_percent, write_page
from rlhf.evaluation.prompt_tests import PromptTestMetrics
from rlhf.evaluation.reward_charts import calibration_chart, margin_chart
from rlhf.evaluation.reward_metrics import CHANCE_LOSS, RewardMetrics, accuracy_spread
from rlhf.evaluation.scored_pairs import Estimate
from rlhf.history import History
from rlhf.tracking.metrics import METRICS

_TOO_FEW = "The interval allows a gap of 0 and a large one: rank more pairs, of more images."

NamedEstimates = list[tuple[str, Estimate]]


@dataclass(frozen=True)
class ReportPair:
    """A pair of responses that the page shows.

    Attributes:
        image: the image of the prompt.
        instruction: the text of the prompt.
        response_a: the first response.
        response_b: the second response.
        score_a: of the first response, reward-model units.
        score_b: of the second response, reward-model units.
        label: 1 where a is preferred, 0 where b is, 0.5 for a tie.
        kind: the kind of the pair, or "".
        history: the earlier turns of the prompt.
    """

    image: Image.Image
    instruction: str
    response_a: str
    response_b: str
    score_a: float
    score_b: float
    label: float
    kind: str = ""
    history: History = ()


@dataclass(frozen=True)
class _Verdict:
    """The texts and bars about a test of what the model reads."""

    title: str
    color: str
    headline: str
    meaning: str
    notes: Sequence[str] = ()
    groups: Sequence[tuple[str, Estimate]] = ()


@dataclass(frozen=True)
class _Response:
    """A response of a pair: whether the label prefers it, and whether its score is higher."""

    name: str
    text: str
    score: float
    preferred: bool
    higher: bool


@dataclass(frozen=True)
class _Card:
    """A ReportPair as the page shows it."""

    image: EmbeddedImage
    history: History
    instruction: str
    kind: str
    confidence: float
    responses: tuple[_Response, _Response]


def write_reward_report(
    path: Path,
    *,
    title: str,
    notes: Sequence[str] = (),
    metrics: RewardMetrics,
    tests: Sequence[PromptTestMetrics] = (),
    mistakes: Sequence[ReportPair],
    right: Sequence[ReportPair] = (),
    curves: Mapping[str, Mapping[str, Curve]] | None = None,
    folds: Sequence[RewardMetrics] | None = None,
) -> None:
    """Write the page as one self-contained HTML file; every text is escaped.

    Args:
        path: the file to write.
        title: the heading of the page.
        notes: lines below the heading.
        metrics: of the held-out pairs.
        tests: results of the tests of what the model reads.
        mistakes: pairs scored wrong, shown in this order.
        right: pairs scored right, shown in this order.
        curves: name of the chart to its curves by name.
        folds: metrics of the held-out pairs of each fold.

    Raises:
        ResourceError: the file cannot be written.
    """
    plots = [calibration_chart(metrics), margin_chart(metrics)]
    plots += [line_chart(name, METRICS.get(name, ""), x) for name, x in (curves or {}).items()]
    write_page(
        path,
        "reward_report.html.j2",
        title=title,
        notes=notes,
        tiles=_tiles(metrics),
        verdicts=[*map(_verdict, tests)],
        plots=plots,
        accuracies=_accuracies(metrics, folds or ()),
        mistakes=[_card(pair) for pair in mistakes],
        right=[_card(pair) for pair in right],
    )


def _tiles(metrics: RewardMetrics) -> list[tuple[str, str, str]]:
    """The name, value and note of each headline number."""
    accuracy = metrics.accuracy
    equal = f", {metrics.equal_scores:,} scored equal" if metrics.equal_scores else ""
    low, high = 100 * accuracy.low, 100 * accuracy.high
    return [
        (
            "accuracy",
            format_percent(accuracy.value),
            f"95 %: {low:.1f} to {high:.1f} %" if accuracy.pairs else "",
        ),
        ("log loss", f"{metrics.log_loss:.3f}", f"nats a pair; chance is {CHANCE_LOSS:.3f}"),
        ("calibration error", format_percent(metrics.calibration_error), "0 is perfect"),
        (
            "pairs",
            f"{metrics.pairs:,}",
            f"{accuracy.pairs:,} decided, {metrics.ties:,} ties{equal}",
        ),
        (
            "score and length",
            f"{metrics.length_correlation:+.2f}",
            f"{metrics.length_rank_correlation:+.2f} by rank: correlation, all responses",
        ),
        (
            "longer scored higher",
            format_percent(metrics.longer_scored_higher),
            f"longer preferred: {format_percent(metrics.longer_preferred)}",
        ),
    ]


def _verdict(metrics: PromptTestMetrics) -> _Verdict:
    test = metrics.test
    if not metrics.accuracies:
        return _Verdict(test.title, "tie", "", metrics.verdict)
    color, subject, meaning = {
        True: ("win", "This model ", test.passed_means),
        False: ("loss", "This model ", test.failed_means),
        None: ("tie", "", _TOO_FEW),
    }[metrics.passed]
    headline = f"{subject}{metrics.verdict}."
    notes = _verdict_notes(metrics) if metrics.images else ["No pair is decided."]
    headline = headline[0].upper() + headline[1:]
    return _Verdict(test.title, color, headline, meaning, notes, _by_name(metrics.accuracies))


def _verdict_notes(metrics: PromptTestMetrics) -> list[str]:
    """The gap with its interval, and the mean margins with theirs."""
    others = "the other" if len(metrics.test.changes) == 1 else "the better of the others"
    gap = (
        f"{metrics.test.own.capitalize()} minus {others}: {100 * metrics.gap:+.1f} points, "
        f"95 % interval {100 * metrics.low:+.1f} to {100 * metrics.high:+.1f}, "
        f"over {metrics.images:,} images."
    )
    if needed := metrics.images_needed:
        gap += f" If the gap stays, about {needed:,} images would tell."
    margins = [f"{x.name} {x.value:+.2f} ({x.low:+.2f} to {x.high:+.2f})" for x in metrics.margins]
    return [gap, f"Mean margin, score units: {', '.join(margins)}."]


def _accuracies(
    metrics: RewardMetrics, folds: Sequence[RewardMetrics]
) -> list[tuple[str, str, NamedEstimates]]:
    """The title, note and bars of each card about accuracy."""
    note = "words of the preferred response relative to the other; much: at least twice, or half"
    cards = [("Accuracy by length", note, _by_name(metrics.by_length))]
    if named := [group for group in metrics.by_kind if group.name]:
        note = "of decided pairs; equal scores count half"
        cards.append(("Accuracy by kind of pair", note, _by_name(named)))
    if folds:
        spread = accuracy_spread(folds)
        note = (
            f"mean {format_percent(spread.mean)}, standard deviation {100 * spread.std:.1f} "
            f"points, {format_percent(spread.low)} to {format_percent(spread.high)}"
        )
        bars = [(f"fold {number}", fold.accuracy) for number, fold in enumerate(folds, 1)]
        cards.append(("Accuracy by fold", note, bars))
    return cards


def _by_name(groups: Sequence[Estimate]) -> NamedEstimates:
    return [(group.name, group) for group in groups]


def _card(pair: ReportPair) -> _Card:
    margin = pair.score_a - pair.score_b
    return _Card(
        embed_image(pair.image, pair.instruction),
        pair.history,
        pair.instruction,
        pair.kind,
        1 / (1 + exp(-min(abs(margin), 700))),  # exp of more overflows
        (
            _Response("A", pair.response_a, pair.score_a, pair.label > 0.5, margin > 0),
            _Response("B", pair.response_b, pair.score_b, pair.label < 0.5, margin < 0),
        ),
    )
