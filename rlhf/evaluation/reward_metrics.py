"""Metrics of a reward model on held-out pairs, and whether it looks at the images."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log, nan
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

CHANCE_LOSS = log(2)  # nats a pair, of scores without information
MIN_IMAGES = 20  # distinct images of decided pairs: an interval over fewer is unreliable
MIN_GAP = 0.05  # the model ignores images if the gap's interval holds 0 and ends below this
LOOKS, IGNORES = "looks at the image", "ignores the image"
CANNOT_TELL = "cannot tell: too few pairs"


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs that the model judges with about the same confidence.

    Attributes:
        predicted: mean of σ(|margin|), the probability that the model gives to its own choice.
        observed: share of the pairs where that choice is right.
        pairs: how many.
    """

    predicted: float
    observed: float
    pairs: int


@dataclass(frozen=True)
class RewardMetrics:
    """Metrics of n held-out pairs.

    Attributes:
        pairs: n.
        ties: pairs without a preferred response.
        equal_scores: pairs with a preferred response whose scores are equal.
        accuracy: over the decided pairs, those with a preferred response.
        log_loss: nats a pair, ties half each way; CHANCE_LOSS is chance.
        calibration: bins that are not empty, 0.05 wide.
        calibration_error: mean |observed - predicted| over pairs, 0 to 1.
        margin_edges: edges of the bins of the margins' histogram, reward-model units; a margin is
            the score of the preferred response minus that of the other.
        margin_counts: decided pairs in each bin.
        by_length: accuracy in each of LENGTH_BANDS.
        by_kind: accuracy of each kind of pair, in order of name.
        length_correlation: Pearson's correlation of score and words over all responses; 0 if one
            of them does not vary.
        length_rank_correlation: Spearman's correlation of score and words.
        longer_preferred: share of the decided pairs of unequal length whose longer response is
            preferred; NaN without such pairs.
        longer_scored_higher: share of these pairs whose longer response scores higher.
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
        """Return the metrics to log, by their names in METRICS."""
        return {
            "reward/validation_accuracy": self.accuracy.value,
            "reward/validation_loss": self.log_loss,
            "reward/calibration_error": self.calibration_error,
            "reward/length_correlation": self.length_correlation,
            "reward/longer_scored_higher": self.longer_scored_higher,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return every metric as JSON has it; None instead of NaN."""
        return _json_values(self)


@dataclass(frozen=True)
class Blindness:
    """Result of a blindness test: accuracy with the right images and without them.

    Attributes:
        own_images: accuracy with the image of each pair.
        shuffled_images: accuracy with the image of another pair.
        blank_images: accuracy with a blank image.
        gap: accuracy with own images minus the better of the two others.
        low: lower end of the 95 % interval of the gap.
        high: upper end of that interval.
        images: distinct images of decided pairs.
        verdict: LOOKS, IGNORES or CANNOT_TELL.
    """

    own_images: Accuracy
    shuffled_images: Accuracy
    blank_images: Accuracy
    gap: float
    low: float
    high: float
    images: int
    verdict: str

    @property
    def images_needed(self) -> int | None:
        """About how many images would tell, if the gap stays; None if it is told, or none would.

        The ends of the interval come nearer to the gap as one over the root of the images.
        """
        shares = [(self.gap - self.low) / self.gap] if self.gap > 0 else []
        if self.gap < MIN_GAP:
            shares.append((self.high - self.gap) / (MIN_GAP - self.gap))
        if self.verdict != CANNOT_TELL or not self.images or not shares:
            return None
        return max(MIN_IMAGES, ceil(self.images * min(shares) ** 2))

    def scalars(self) -> dict[str, float]:
        """Return the metrics to log, by their names in METRICS."""
        return {
            "reward/blind_accuracy_shuffled": self.shuffled_images.value,
            "reward/blind_accuracy_blank": self.blank_images.value,
            "reward/blindness_gap": self.gap,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return every metric as JSON has it; None instead of NaN."""
        return _json_values(self)


@dataclass(frozen=True)
class Spread:
    """Mean and spread of the accuracies of cross-validation folds.

    Attributes:
        mean: of the accuracies.
        std: standard deviation of the sample; 0 for a single fold.
        low: the lowest accuracy.
        high: the highest accuracy.
    """

    mean: float
    std: float
    low: float
    high: float


def reward_metrics(pairs: ScoredPairs, *, seed: int = 0) -> RewardMetrics:
    """Compute the metrics of held-out pairs.

    Args:
        pairs: n pairs with their scores.
        seed: of the 2,000 resamples of whole images behind the intervals.
    """
    d, y = pairs.differences, pairs.labels.double()
    curve, (edges, counts) = calibration_curve(d, y), margin_histogram(d, y)
    bins = zip(*(column.tolist() for column in curve), strict=True)
    scores = torch.cat([pairs.scores_a, pairs.scores_b]).double()
    words = torch.cat([pairs.lengths_a, pairs.lengths_b])
    preferred, scored_higher = longer_shares(d, y, pairs.lengths_a - pairs.lengths_b)
    overall, *groups = _accuracies(pairs, seed)
    return RewardMetrics(
        pairs=len(pairs),
        ties=int((y == 0.5).sum()),
        equal_scores=int(((d == 0) & (y != 0.5)).sum()),
        accuracy=overall,
        log_loss=float(log_loss(d, y)),
        calibration=tuple(CalibrationBin(*values) for values in bins if values[2]),
        calibration_error=float(calibration_error(curve)),
        margin_edges=tuple(edges.tolist()),
        margin_counts=tuple(counts.tolist()),
        by_length=tuple(groups[: len(LENGTH_BANDS)]),
        by_kind=tuple(groups[len(LENGTH_BANDS) :]),
        length_correlation=float(pearson(scores, words)),
        length_rank_correlation=float(spearman(scores, words)),
        longer_preferred=float(preferred),
        longer_scored_higher=float(scored_higher),
    )


def blindness(
    own_images: ScoredPairs,
    shuffled_images: ScoredPairs,
    blank_images: ScoredPairs,
    *,
    seed: int = 0,
) -> Blindness:
    """Measure how much the right image adds to the accuracy, and whether the model looks at it.

        gap = accuracy(own_images) - max(accuracy(shuffled_images), accuracy(blank_images))

    Images are resampled once for all three, so the interval is that of a paired difference.
    The verdict is CANNOT_TELL with fewer than 20 images; LOOKS if the interval lies above 0;
    IGNORES if it lies below 0.05; else CANNOT_TELL.

    Args:
        own_images: n pairs scored with their own images.
        shuffled_images: these pairs, scored with the images of others.
        blank_images: these pairs, scored with a blank image.
        seed: of the 2,000 resamples of whole images behind the interval.

    Raises:
        ValueError: the labels of the three differ.
    """
    parts = own_images, shuffled_images, blank_images
    if not all(torch.equal(own_images.labels, part.labels) for part in parts):
        raise ValueError("pairs: wanted the same pairs in the same order three times")
    credit = torch.stack([part.credit for part in parts], dim=1)
    means = resampled_accuracies(credit, own_images.image_ids, seed)
    names = "own image", "another image", "blank image"
    own_accuracy, shuffled_accuracy, blank_accuracy = accuracies(names, credit, means)
    low, high = map(float, percentile_interval(means[:, 0] - means[:, 1:].amax(dim=1)))
    images = len(own_images.image_ids[own_images.labels != 0.5].unique())
    gap = own_accuracy.value - max(shuffled_accuracy.value, blank_accuracy.value)
    return Blindness(
        own_accuracy,
        shuffled_accuracy,
        blank_accuracy,
        gap,
        low,
        high,
        images,
        _verdict(low, high, images),
    )


def accuracy_spread(folds: Sequence[RewardMetrics]) -> Spread:
    """Compute mean and spread of the accuracies of cross-validation folds.

    Raises:
        StatisticsError: there is no fold.
    """
    values = [fold.accuracy.value for fold in folds]
    std = stdev(values) if len(values) > 1 else 0.0
    return Spread(fmean(values), std, min(values), max(values))


def _json_values(metrics: RewardMetrics | Blindness) -> dict[str, Any]:
    # msgspec writes NaN as null.
    return dict(msgspec.json.decode(msgspec.json.encode(metrics)))


def _accuracies(pairs: ScoredPairs, seed: int) -> tuple[Accuracy, ...]:
    """Compute the accuracy over all pairs, in each length band, and of each kind of pair."""
    kinds = sorted(set(pairs.kinds))
    bands = length_bands(pairs.lengths_a, pairs.lengths_b, pairs.labels)
    groups = [torch.ones(len(pairs), dtype=torch.bool)]
    groups += [bands == band for band in range(len(LENGTH_BANDS))]
    groups += [torch.tensor([name == kind for name in pairs.kinds]) for kind in kinds]
    credit = torch.stack([pairs.credit.where(rows, nan) for rows in groups], dim=1)
    means = resampled_accuracies(credit, pairs.image_ids, seed)
    return accuracies(("all pairs", *LENGTH_BANDS, *kinds), credit, means)


def _verdict(low: float, high: float, images: int) -> str:
    if images < MIN_IMAGES:
        return CANNOT_TELL
    if low > 0:
        return LOOKS
    return IGNORES if high < MIN_GAP else CANNOT_TELL
