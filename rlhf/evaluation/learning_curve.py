"""What more pairs might teach a reward model: accuracy after trainings on parts of the pairs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.evaluation.learning import Trainings, format_points
from rlhf.evaluation.scored_pairs import MIN_IMAGES, Estimate, estimates, resampled
from rlhf.functional.preference_metrics import percentile_interval


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy after trainings on growing parts of the training pairs, and of twice as many.

    Attributes:
        sizes: decided training pairs of each training.
        accuracies: of each training, on the same pairs.
        level: the fitted accuracy of all training pairs.
        slope: what twice the training pairs add to the accuracy, by the fit.
        slope_low: lower end of the 95 % interval of the slope.
        slope_high: upper end of that interval.
        expected: accuracy to expect of twice the training pairs.
        images: distinct images of decided pairs.
    """

    sizes: tuple[int, ...]
    accuracies: tuple[Estimate, ...]
    level: float
    slope: float
    slope_low: float
    slope_high: float
    expected: Estimate
    images: int

    @property
    def sentence(self) -> str:
        """What more training pairs might give, in words."""
        if self.images < MIN_IMAGES:
            return f"what more pairs would give cannot be told from {self.expected.pairs:,} pairs"
        if self.slope_low > 0:
            value, low, high = (
                100 * x for x in (self.expected.value, self.expected.low, self.expected.high)
            )
            pairs = f"{2 * self.sizes[-1]:,} pairs"
            return f"with {pairs} you might expect {value:.0f} % ({low:.0f} to {high:.0f} %)"
        slope, low_end, high_end = map(format_points, (self.slope, self.slope_low, self.slope_high))
        change = f"twice as many change the fit by {slope} points ({low_end} to {high_end})"
        return f"more pairs of this kind may not help: {change}"

    def scalars(self) -> dict[str, float]:
        """Return the metrics to log, by their names in METRICS."""
        values = *(accuracy.value for accuracy in self.accuracies[:-1]), self.expected.value
        names = "reward/third_accuracy", "reward/two_thirds_accuracy", "reward/expected_accuracy"
        return dict(zip(names, values, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Return every metric with the sentence."""
        return asdict(self) | {"sentence": self.sentence}


def learning_curve(trainings: Trainings, *, seed: int = 0) -> LearningCurve:
    """Fit accuracies on the same pairs, and extrapolate them to twice the training pairs.

    The value to expect is that of `fit_log_pairs` at twice the pairs, at least the last accuracy
    and at most 1. Images are resampled once for all trainings, and the fit is repeated in each
    resample. The intervals say which pairs were held out, not which ones were trained on.

    Args:
        trainings: n pairs, scored after each training.
        seed: of the 2,000 resamples of whole images behind the intervals.
    """
    credit = torch.stack([part.credit for part in trainings.trained], dim=1)
    means = resampled(credit, trainings.untrained.image_ids, seed)
    names = [f"{size:,} pairs" for size in trainings.sizes]
    accuracies = estimates(names, credit, means)
    measured = torch.cat([credit.nanmean(dim=0, keepdim=True), means])
    level, slope = fit_log_pairs(trainings.sizes, measured)
    expected = torch.maximum(level + slope, measured[:, -1]).clamp(max=1)
    ends = percentile_interval(torch.stack([slope, expected], dim=1)[1:])
    (slope_low, low), (slope_high, high) = (end.tolist() for end in ends)
    name, pairs = f"{2 * trainings.sizes[-1]:,} pairs", accuracies[-1].pairs
    return LearningCurve(
        trainings.sizes,
        accuracies,
        float(level[0]),
        float(slope[0]),
        slope_low,
        slope_high,
        Estimate(name, pairs, float(expected[0]), low, high),
        trainings.untrained.decided_images,
    )


def fit_log_pairs(sizes: Sequence[int], accuracies: Tensor) -> tuple[Tensor, Tensor]:
    """Fit accuracies by a line in the logarithm of the training pairs.

        y(n) = a + b·log₂(n / N),  a, b = argmin Σᵢ nᵢ (yᵢ - y(nᵢ))²,  N = the largest nᵢ

    Each doubling adds b: of the curves whose returns fall this is the one with two parameters. A
    power law that levels off has three, which three points cannot check. A training on more pairs
    depends less on which ones they are, with a variance of about 1/n, so it weighs n; that other
    held-out pairs would move all points together is no reason to weigh any of them more.

    Args:
        sizes: K different numbers n of training pairs.
        accuracies: [R, K] float64, K accuracies y in each of R rows.

    Returns:
        a [R], the fitted accuracy at N, and b [R], what a doubling adds.

    Source: Figueroa et al. 2012, doi:10.1186/1472-6947-12-8, for the weights.
    """
    n = torch.tensor(sizes, dtype=torch.float64)
    x, weights = (n / n.max()).log2(), n / n.sum()
    centered = x - (weights * x).sum()
    slope = accuracies @ (weights * centered) / (weights * centered.square()).sum()
    return accuracies @ weights - slope * (weights * x).sum(), slope
