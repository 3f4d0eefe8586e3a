"""What training taught a reward model: its accuracy on held-out pairs before and after."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from rlhf.evaluation.scored_pairs import (
    Estimate,
    ScoredPairs,
    estimates,
    exceeds_zero,
    resampled,
)
from rlhf.functional.preference_metrics import percentile_interval

NEGLIGIBLE_GAIN = 0.1  # a gain whose interval holds 0 and ends below this counts as none


@dataclass(frozen=True)
class Trainings:
    """n pairs, scored before training and after each training on a growing part of other pairs.

    Attributes:
        untrained: scored before training.
        trained: scored after each training, the last on all training pairs.
        sizes: decided training pairs of each.
    """

    untrained: ScoredPairs
    trained: tuple[ScoredPairs, ...]
    sizes: tuple[int, ...]

    @staticmethod
    def concatenate(parts: Sequence["Trainings"]) -> "Trainings":
        """Return the pairs of all parts, in order, with the mean sizes of their trainings."""
        sizes = zip(*(part.sizes for part in parts), strict=True)
        columns = zip(*(part.trained for part in parts), strict=True)
        return Trainings(
            ScoredPairs.concatenate([part.untrained for part in parts]),
            tuple(map(ScoredPairs.concatenate, columns)),
            tuple(round(sum(row) / len(row)) for row in sizes),
        )


@dataclass(frozen=True)
class TrainingGain:
    """Accuracy on the same pairs before and after training.

    Attributes:
        before: accuracy of the untrained model.
        after: accuracy of the trained one.
        gain: their difference.
        low: lower end of the 95 % interval of the gain.
        high: upper end of that interval.
        images: distinct images of decided pairs.
        learnt: whether the model has learnt; None: it cannot be told.
    """

    before: Estimate
    after: Estimate
    gain: float
    low: float
    high: float
    images: int
    learnt: bool | None

    @property
    def verdict(self) -> str:
        """Whether the model has learnt, in words."""
        if self.learnt is None:
            return f"cannot be told from {self.after.pairs:,} pairs"
        worse = "is worse than before training" if self.high < 0 else "has not learnt"
        return "has learnt" if self.learnt else worse

    @property
    def sentence(self) -> str:
        """The verdict with the accuracies and the interval behind it."""
        before, after = 100 * self.before.value, 100 * self.after.value
        gain, low, high = map(format_points, (self.gain, self.low, self.high))
        difference = f"difference {gain} points, {low} to {high}"
        return f"{self.verdict}: {before:.1f} % before, {after:.1f} % after ({difference})"

    def scalars(self) -> dict[str, float]:
        """Return the metrics to log, by their names in METRICS."""
        return {"reward/start_accuracy": self.before.value, "reward/accuracy_gain": self.gain}

    def facts(self) -> dict[str, Any]:
        """Return what the card of the reward model says of it; nothing without a decided pair."""
        if not self.after.pairs:
            return {}
        return {
            "start_accuracy": self.before.value,
            "held_out_accuracy": self.after.value,
            "gain_low": self.low,
            "gain_high": self.high,
            "learnt": self.sentence,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return every metric with the verdict."""
        return asdict(self) | {"verdict": self.verdict}


def training_gain(trainings: Trainings, *, seed: int = 0) -> TrainingGain:
    """Measure what training added to the accuracy, and whether the model has learnt at all.

    Images are resampled once for both, so the interval is that of a paired difference. The model
    has learnt if it lies above 0, and has not if it ends below 0.1. Over fewer than 20 images it
    cannot be told.

    Args:
        trainings: n pairs, scored before and after training.
        seed: of the 2,000 resamples of whole images behind the intervals.
    """
    pairs = trainings.untrained, trainings.trained[-1]
    credit = torch.stack([part.credit for part in pairs], dim=1)
    means = resampled(credit, pairs[0].image_ids, seed)
    before, after = estimates(("before training", "after training"), credit, means)
    low, high = map(float, percentile_interval(means[:, 1] - means[:, 0]))
    images = pairs[0].decided_images
    learnt = exceeds_zero(low, high, images, negligible=NEGLIGIBLE_GAIN)
    return TrainingGain(before, after, after.value - before.value, low, high, images, learnt)


def format_points(share: float) -> str:
    """Format a difference of shares in points with one decimal, zero without a sign."""
    return f"{round(100 * share, 1) + 0.0:.1f}"
