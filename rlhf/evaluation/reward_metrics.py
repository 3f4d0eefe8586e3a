"""What a reward model is told about itself on held-out pairs, and whether it looks at images."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, log, nan
from statistics import fmean, stdev
from typing import Any

import msgspec
import torch

from rlhf.evaluation.scored_pairs import Accuracy, ScoredPairs, accuracies, resampled_accuracies
from rlhf.functional.preference_metrics import (
    LENGTH_BANDS,
    calibration_curve,
    calibration_error,
    length_bands,
    log_loss,
    longer_shares,
    margin_histogram,
    pearson,
    percentile_interval,
    spearman,
)

CHANCE_LOSS = log(2)  # nats a pair, of scores that say nothing
FEWEST_IMAGES = 20  # of decided pairs: an interval from fewer is not to be trusted
SMALLEST_GAP = 0.05  # that matters: an interval below it, and holding 0, says no image is read
LOOKS, IGNORES = "looks at the image", "ignores the image"
CANNOT_TELL = "cannot tell: too few pairs"
METRIC_COLUMNS = ("metric", "value", "95 % interval", "pairs")
CALIBRATION_COLUMNS = ("σ of the margin", "share right", "pairs")


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs of about one predicted share: the mean of it, and how often the model was right."""

    predicted: float
    observed: float
    pairs: int


@dataclass(frozen=True)
class RewardMetrics:
    """Metrics of n held-out pairs.

    Attributes:
        pairs, ties, equal_scores: counts; only decided pairs are looked at for equal scores.
        log_loss: nats a pair, ties half each way; CHANCE_LOSS is chance.
        calibration: bins that are not empty, 0.05 wide.
        calibration_error: mean |observed - predicted|, 0 to 1.
        margin_edges, margin_counts: histogram of the score of the preferred answer minus the other.
        by_length: one for each of LENGTH_BANDS.
        by_kind: in order of name.
        length_correlation, length_rank_correlation: of score and words, over all responses;
            0 where one does not vary.
        longer_preferred, longer_scored_higher: share of the decided pairs of unequal length whose
            longer answer is preferred, or scored higher; NaN without such pairs.
    """

    pairs: int
    ties: int
    equal_scores: int
    accuracy: Accuracy
    log_loss: float
    calibration: tuple[CalibrationBin, ...]
    calibration_error: float
    margin_edges: tuple[float, ...]
    margin_counts: tuple[int, ...]
    by_length: tuple[Accuracy, ...]
    by_kind: tuple[Accuracy, ...]
    length_correlation: float
    length_rank_correlation: float
    longer_preferred: float
    longer_scored_higher: float

    def scalars(self) -> dict[str, float]:
        """The metrics that METRICS names."""
        return {
            "reward/validation_accuracy": self.accuracy.value,
            "reward/validation_loss": self.log_loss,
            "reward/calibration_error": self.calibration_error,
            "reward/length_correlation": self.length_correlation,
            "reward/longer_scored_higher": self.longer_scored_higher,
        }

    def as_dict(self) -> dict[str, Any]:
        """Every metric, for JSON; None where there is no number."""
        return _plain(self)


@dataclass(frozen=True)
class Blindness:
    """Accuracy with the own image, with another's and with a blank one.

    Attributes:
        gap: own minus the better of the two others; low and high are its 95 % interval.
        images: of decided pairs.
        verdict: LOOKS, IGNORES or CANNOT_TELL.
    """

    own: Accuracy
    shuffled: Accuracy
    blank: Accuracy
    gap: float
    low: float
    high: float
    images: int
    verdict: str

    def scalars(self) -> dict[str, float]:
        """The metrics that METRICS names."""
        return {
            "reward/blind_accuracy_shuffled": self.shuffled.value,
            "reward/blind_accuracy_blank": self.blank.value,
            "reward/blindness_gap": self.gap,
        }

    def as_dict(self) -> dict[str, Any]:
        """Every metric, for JSON; None where there is no number."""
        return _plain(self)


@dataclass(frozen=True)
class Spread:
    """Accuracy over the folds of a data set; std is the sample's, 0 of a single fold."""

    mean: float
    std: float
    low: float
    high: float


def reward_metrics(pairs: ScoredPairs, *, seed: int = 0) -> RewardMetrics:
    """The metrics of held-out pairs.

    Args: seed, of the 2,000 resamples of whole images behind the intervals.
    """
    d, y = pairs.differences, pairs.labels.double()
    curve, (edges, counts) = calibration_curve(d, y), margin_histogram(d, y)
    bins = zip(*(column.tolist() for column in curve), strict=True)
    scores = torch.cat([pairs.scores_a, pairs.scores_b]).double()
    words = torch.cat([pairs.lengths_a, pairs.lengths_b])
    preferred, scored_higher = longer_shares(d, y, pairs.lengths_a - pairs.lengths_b)
    every, *parts = _accuracies(pairs, seed)
    return RewardMetrics(
        pairs=len(pairs),
        ties=int((y == 0.5).sum()),
        equal_scores=int(((d == 0) & (y != 0.5)).sum()),
        accuracy=every,
        log_loss=float(log_loss(d, y)),
        calibration=tuple(CalibrationBin(*numbers) for numbers in bins if numbers[2]),
        calibration_error=float(calibration_error(curve)),
        margin_edges=tuple(edges.tolist()),
        margin_counts=tuple(counts.tolist()),
        by_length=tuple(parts[: len(LENGTH_BANDS)]),
        by_kind=tuple(parts[len(LENGTH_BANDS) :]),
        length_correlation=float(pearson(scores, words)),
        length_rank_correlation=float(spearman(scores, words)),
        longer_preferred=float(preferred),
        longer_scored_higher=float(scored_higher),
    )


def blindness(
    own: ScoredPairs, shuffled: ScoredPairs, blank: ScoredPairs, *, seed: int = 0
) -> Blindness:
    """What the image is worth to the model, and a verdict on it.

        gap = accuracy(own) - max(accuracy(shuffled), accuracy(blank))

    Images are resampled once for all three, so the interval is that of a paired difference.
    The verdict is CANNOT_TELL with fewer than 20 images; LOOKS if the interval lies above 0;
    IGNORES if it lies below 0.05; else CANNOT_TELL.

    Args: the same pairs scored with their own image, with another's and with a blank one.
    Raises: ValueError, they are not the same pairs.
    """
    for blinded in (shuffled, blank):
        if not torch.equal(own.labels, blinded.labels):
            raise ValueError("pairs: wanted the same pairs in the same order three times")
    credit = torch.stack([own.credit, shuffled.credit, blank.credit], dim=1)
    means = resampled_accuracies(credit, own.images, seed)
    names = "own image", "another image", "blank image"
    seen, other, none = accuracies(names, credit, means)
    low, high = map(float, percentile_interval(means[:, 0] - means[:, 1:].amax(dim=1)))
    images = len(own.images[own.labels != 0.5].unique())
    gap = seen.value - max(other.value, none.value)
    return Blindness(seen, other, none, gap, low, high, images, _verdict(low, high, images))


def accuracy_spread(folds: Sequence[RewardMetrics]) -> Spread:
    """How far the accuracies of the folds lie apart. Raises: StatisticsError, there is none."""
    values = [fold.accuracy.value for fold in folds]
    std = stdev(values) if len(values) > 1 else 0.0
    return Spread(fmean(values), std, min(values), max(values))


def metric_rows(metrics: RewardMetrics) -> list[tuple[object, ...]]:
    """Rows for `console.table` under METRIC_COLUMNS."""
    n = metrics.pairs
    return [
        _row("accuracy", metrics.accuracy),
        (f"log loss (chance {CHANCE_LOSS:.4f})", metrics.log_loss, "", n),
        ("calibration error", metrics.calibration_error, "", n),
        ("ties", metrics.ties, "", n),
        ("correlation of score and words", metrics.length_correlation, "", n),
        ("the same of their ranks", metrics.length_rank_correlation, "", n),
        ("longer answer preferred", metrics.longer_preferred, "", n),
        ("longer answer scored higher", metrics.longer_scored_higher, "", n),
        *(_row(f"accuracy, preferred is {x.name}", x) for x in metrics.by_length if x.pairs),
        *(_row(f"accuracy of {x.name}", x) for x in metrics.by_kind if x.name and x.pairs),
    ]


def calibration_rows(metrics: RewardMetrics) -> list[tuple[object, ...]]:
    """Rows for a table under CALIBRATION_COLUMNS."""
    return [(x.predicted, x.observed, x.pairs) for x in metrics.calibration]


def blindness_rows(found: Blindness) -> list[tuple[object, ...]]:
    """Rows for `console.table` under METRIC_COLUMNS."""
    parts = found.own, found.shuffled, found.blank
    gap = "gap, own minus the better blinded", found.gap, _interval(found.low, found.high)
    return [*(_row(f"accuracy, {part.name}", part) for part in parts), (*gap, found.own.pairs)]


def _row(name: str, x: Accuracy) -> tuple[object, ...]:
    return name, x.value, _interval(x.low, x.high), x.pairs


def _interval(low: float, high: float) -> str:
    return "" if isnan(low) else f"{low:.3f} to {high:.3f}"


def _plain(metrics: RewardMetrics | Blindness) -> dict[str, Any]:
    """As JSON has it: msgspec writes NaN as null."""
    return dict(msgspec.json.decode(msgspec.json.encode(metrics)))


def _accuracies(pairs: ScoredPairs, seed: int) -> tuple[Accuracy, ...]:
    """Of all pairs, then of each length band, then of each kind."""
    kinds = sorted(set(pairs.kinds))
    bands = length_bands(pairs.lengths_a, pairs.lengths_b, pairs.labels)
    groups = [torch.ones(len(pairs), dtype=torch.bool)]
    groups += [bands == place for place in range(len(LENGTH_BANDS))]
    groups += [torch.tensor([name == kind for name in pairs.kinds]) for kind in kinds]
    credit = torch.stack([pairs.credit.where(rows, nan) for rows in groups], dim=1)
    means = resampled_accuracies(credit, pairs.images, seed)
    return accuracies(("all pairs", *LENGTH_BANDS, *kinds), credit, means)


def _verdict(low: float, high: float, images: int) -> str:
    if images < FEWEST_IMAGES:
        return CANNOT_TELL
    if low > 0:
        return LOOKS
    return IGNORES if high < SMALLEST_GAP else CANNOT_TELL
