"""What is found out about a reward model on held-out pairs, as the command reports it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlhf.evaluation.learning import TrainingGain, training_gain
from rlhf.evaluation.learning_curve import LearningCurve, learning_curve
from rlhf.evaluation.prompt_changes import EvaluatedPairs
from rlhf.evaluation.prompt_tests import PROMPT_TESTS, PromptTestMetrics, prompt_test_metrics
from rlhf.evaluation.reward_metrics import RewardMetrics, accuracy_spread, reward_metrics
from rlhf.evaluation.reward_tables import metric_rows, prompt_test_rows, training_rows


@dataclass(frozen=True)
class RewardFindings:
    """Metrics, gain of training, learning curve and tests of a reward model.

    Attributes:
        metrics: of the pairs.
        gain: accuracy before and after training; None if it was not measured.
        curve: accuracies of trainings on parts of the pairs; None if there were none.
        tests: whether the model reads the parts of its prompts.
        folds: metrics of each fold of a cross-validation.
    """

    metrics: RewardMetrics
    gain: TrainingGain | None
    curve: LearningCurve | None
    tests: Sequence[PromptTestMetrics]
    folds: Sequence[RewardMetrics]

    @property
    def sentences(self) -> dict[str, str]:
        """The verdicts in words, by what they are about."""
        learning = {"training": self.gain, "learning curve": self.curve}
        found = {name: part.sentence for name, part in learning.items() if part}
        return found | {test.test.title.lower(): test.verdict for test in self.tests}

    @property
    def rows(self) -> list[tuple[object, ...]]:
        """The metrics as rows of a table under METRIC_COLUMNS."""
        training = training_rows(self.gain, self.curve) if self.gain else []
        tests = [row for test in self.tests for row in prompt_test_rows(test)]
        return [*metric_rows(self.metrics), *training, *tests]

    @property
    def scalars(self) -> dict[str, float]:
        """The metrics to log, by their names in METRICS."""
        parts = self.metrics, self.gain, self.curve, *self.tests
        return {name: value for part in parts if part for name, value in part.scalars().items()}

    def as_dict(self) -> dict[str, Any]:
        """Return every metric, by what it is about."""
        learning = {"training_gain": self.gain, "learning_curve": self.curve}
        found = {"metrics": asdict(self.metrics)}
        found |= {name: part.as_dict() for name, part in learning.items() if part}
        found |= {test.test.key: test.as_dict() for test in self.tests}
        folds = {str(n): asdict(fold) for n, fold in enumerate(self.folds, 1)}
        return found | ({"folds": folds} if folds else {})

    def summary(self) -> dict[str, Any]:
        """Return accuracies with their intervals, what is logged, and the verdicts."""
        accuracy, gain, curve = self.metrics.accuracy, self.gain, self.curve
        summary = {
            "reward_model_accuracy": accuracy.value,
            "accuracy_low": accuracy.low,
            "accuracy_high": accuracy.high,
            **{f"accuracy_{x.name}": x.value for x in self.metrics.by_kind if x.name},
            **self.scalars,
        }
        if gain:
            summary |= {"gain_low": gain.low, "gain_high": gain.high}
        if curve:
            summary |= {"expected_low": curve.expected.low, "expected_high": curve.expected.high}
        if self.folds:
            spread = accuracy_spread(self.folds)
            summary |= {"fold_accuracy_mean": spread.mean, "fold_accuracy_std": spread.std}
        return summary | self._verdicts()

    def _verdicts(self) -> dict[str, str]:
        learning = {"learnt": self.gain, "learning_curve": self.curve}
        found = {name: part.sentence for name, part in learning.items() if part}
        return found | {test.test.key: test.verdict for test in self.tests}


def reward_findings(
    evaluated: EvaluatedPairs, folds: Sequence[RewardMetrics] = (), *, seed: int = 0
) -> RewardFindings:
    """Compute what is found out about a reward model from pairs that it was not trained on.

    Args:
        evaluated: the pairs, scored.
        folds: metrics of each fold of a cross-validation.
        seed: of the 2,000 resamples of whole images behind the intervals.
    """
    trainings = evaluated.trainings
    has_curve = trainings is not None and len(trainings.trained) > 1
    return RewardFindings(
        reward_metrics(evaluated.scored, seed=seed),
        training_gain(trainings, seed=seed) if trainings else None,
        learning_curve(trainings, seed=seed) if trainings and has_curve else None,
        [prompt_test_metrics(x, evaluated.tests.get(x), seed=seed) for x in PROMPT_TESTS],
        folds,
    )
