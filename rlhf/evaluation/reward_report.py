"""The HTML page about a reward model: its metrics on held-out pairs, and what it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path

from PIL import Image

from rlhf.evaluation.charts import Curve, line_chart
from rlhf.evaluation.html import EmbeddedImage, embed_image, format_percent, write_page
from rlhf.evaluation.learning import TrainingGain
from rlhf.evaluation.learning_curve import LearningCurve
from rlhf.evaluation.prompt_tests import PromptTestMetrics
from rlhf.evaluation.reward_charts import calibration_chart, margin_chart
from rlhf.evaluation.reward_metrics import CHANCE_LOSS, RewardMetrics, accuracy_spread
from rlhf.evaluation.reward_verdicts import learning_section, prompt_test_banner, training_banner
from rlhf.evaluation.scored_pairs import Estimate
from rlhf.history import History
from rlhf.tracking.metrics import METRICS


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
    gain: TrainingGain | None = None,
    curve: LearningCurve | None = None,
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
        gain: accuracy before and after training; None if it was not measured.
        curve: accuracies of trainings on parts of the pairs; None if there were none.
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
        training=training_banner(gain) if gain else None,
        learning=learning_section(curve, gain.before) if curve and gain else None,
        verdicts=[*map(prompt_test_banner, tests)],
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


def _accuracies(
    metrics: RewardMetrics, folds: Sequence[RewardMetrics]
) -> list[tuple[str, str, Sequence[Estimate]]]:
    """The title, note and bars of each card about accuracy."""
    note = "words of the preferred response relative to the other; much: at least twice, or half"
    cards: list[tuple[str, str, Sequence[Estimate]]] = []
    cards.append(("Accuracy by length", note, metrics.by_length))
    if named := [group for group in metrics.by_kind if group.name]:
        note = "of decided pairs; equal scores count half"
        cards.append(("Accuracy by kind of pair", note, named))
    if folds:
        spread = accuracy_spread(folds)
        note = (
            f"mean {format_percent(spread.mean)}, standard deviation {100 * spread.std:.1f} "
            f"points, {format_percent(spread.low)} to {format_percent(spread.high)}"
        )
        bars = [replace(fold.accuracy, name=f"fold {n}") for n, fold in enumerate(folds, 1)]
        cards.append(("Accuracy by fold", note, bars))
    return cards


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
