"""Metrics of a reward model on held-out pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, nan
from statistics import fmean, stdev

import torch

from rlhf.evaluation.scored_pairs import Estimate, ScoredPairs, estimates, resampled
from rlhf.functional.preference_metrics import (
    LENGTH_BANDS,
    calibration_curve,
    calibration_error,
    length_bands,
    log_loss,
    longer_shares,
    margin_histogram,
    pearson,
    spearman,
)

CHANCE_LOSS = log(2)  # nats a pair, of scores without information


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
    accuracy: Estimate
    log_loss: float
    calibration: tuple[CalibrationBin, ...]
    calibration_error: float
    margin_edges: tuple[float, ...]
    margin_counts: tuple[int, ...]
    by_length: tuple[Estimate, ...]
    by_kind: tuple[Estimate, ...]
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


def accuracy_spread(folds: Sequence[RewardMetrics]) -> Spread:
    """Compute mean and spread of the accuracies of cross-validation folds.

    Raises:
        StatisticsError: there is no fold.
    """
    values = [fold.accuracy.value for fold in folds]
    std = stdev(values) if len(values) > 1 else 0.0
    return Spread(fmean(values), std, min(values), max(values))


def _accuracies(pairs: ScoredPairs, seed: int) -> tuple[Estimate, ...]:
    """Compute the accuracy over all pairs, in each length band, and of each kind of pair."""
    kinds = sorted(set(pairs.kinds))
    bands = length_bands(pairs.lengths_a, pairs.lengths_b, pairs.labels)
    groups = [torch.ones(len(pairs), dtype=torch.bool)]
    groups += [bands == band for band in range(len(LENGTH_BANDS))]
    groups += [torch.tensor([name == kind for name in pairs.kinds]) for kind in kinds]
    credit = torch.stack([pairs.credit.where(rows, nan) for rows in groups], dim=1)
    means = resampled(credit, pairs.image_ids, seed)
    return estimates(("all pairs", *LENGTH_BANDS, *kinds), credit, means)
