"""Metrics of reward models as rows of tables, for the console and for TensorBoard."""

from math import isnan

from rlhf.evaluation.learning import TrainingGain
from rlhf.evaluation.learning_curve import LearningCurve
from rlhf.evaluation.prompt_tests import PromptTestMetrics
from rlhf.evaluation.reward_metrics import CHANCE_LOSS, RewardMetrics
from rlhf.evaluation.scored_pairs import Estimate

METRIC_COLUMNS = ("metric", "value", "95 % interval", "pairs")
CALIBRATION_COLUMNS = ("σ of the margin", "share right", "pairs")


def metric_rows(metrics: RewardMetrics) -> list[tuple[object, ...]]:
    """Lay out metrics for a table under METRIC_COLUMNS."""
    n = metrics.pairs
    return [
        _row("accuracy", metrics.accuracy),
        (f"log loss (chance {CHANCE_LOSS:.4f})", metrics.log_loss, "", n),
        ("calibration error", metrics.calibration_error, "", n),
        ("ties", metrics.ties, "", n),
        ("correlation of score and words", metrics.length_correlation, "", n),
        ("correlation of their ranks", metrics.length_rank_correlation, "", n),
        ("longer response preferred", metrics.longer_preferred, "", n),
        ("longer response scored higher", metrics.longer_scored_higher, "", n),
        *(_row(f"accuracy, preferred is {x.name}", x) for x in metrics.by_length if x.pairs),
        *(_row(f"accuracy of {x.name}", x) for x in metrics.by_kind if x.name and x.pairs),
    ]


def calibration_rows(metrics: RewardMetrics) -> list[tuple[object, ...]]:
    """Lay out the bins of the calibration for a table under CALIBRATION_COLUMNS."""
    return [(x.predicted, x.observed, x.pairs) for x in metrics.calibration]


def prompt_test_rows(metrics: PromptTestMetrics) -> list[tuple[object, ...]]:
    """Lay out the result of a test for a table under METRIC_COLUMNS; none if it was not made."""
    if not metrics.accuracies:
        return []
    gap = metrics.gap, _interval(metrics.low, metrics.high), metrics.accuracies[0].pairs
    return [
        *(_row(f"accuracy, {x.name}", x) for x in metrics.accuracies),
        (f"gap, {metrics.test.own} minus the best other", *gap),
        *(_row(f"mean margin, {x.name}", x) for x in metrics.margins),
    ]


def training_rows(gain: TrainingGain, curve: LearningCurve | None) -> list[tuple[object, ...]]:
    """Lay out what training taught, and what more pairs might, for a table under METRIC_COLUMNS."""
    added = gain.gain, _interval(gain.low, gain.high), gain.after.pairs
    rows = [_row("accuracy, before training", gain.before), ("gain of training", *added)]
    if curve is None:
        return rows
    slope = curve.slope, _interval(curve.slope_low, curve.slope_high), curve.expected.pairs
    return [
        *rows,
        *(_row(f"accuracy, trained on {x.name}", x) for x in curve.accuracies),
        ("gain of twice the pairs, by the fit", *slope),
        _row(f"to expect of {curve.expected.name}", curve.expected),
    ]


def _row(name: str, x: Estimate) -> tuple[object, ...]:
    return name, x.value, _interval(x.low, x.high), x.pairs


def _interval(low: float, high: float) -> str:
    return "" if isnan(low) else f"{low:.3f} to {high:.3f}"
