"""Whether a reward model reads a part of the prompt: accuracy with it, and with another one."""

from dataclasses import asdict, dataclass
from math import ceil, nan
from typing import Any

import torch

from rlhf.evaluation.scored_pairs import (
    MIN_IMAGES,
    ChangedPairs,
    Estimate,
    estimates,
    exceeds_zero,
    resampled,
)
from rlhf.functional.preference_metrics import percentile_interval

MIN_GAP = 0.05  # the model ignores the part if the gap's interval holds 0 and ends below this


@dataclass(frozen=True)
class PromptTest:
    """A test that scores the same pairs with a part of their prompts changed.

    Attributes:
        key: its name in metrics.json and in the summary.
        title: its heading.
        own: what pairs have that are scored as they are.
        changes: what they have instead, by change.
        scalars: names in METRICS of the accuracy under each change, and of the gap.
        passed: the verdict on a model that reads the part.
        failed: the verdict on one that ignores it.
        passed_means: what the verdict means.
        failed_means: what the other verdict means.
        not_made: why there may be no pair to test.
    """

    key: str
    title: str
    own: str
    changes: tuple[str, ...]
    scalars: tuple[str, ...]
    passed: str
    failed: str
    passed_means: str
    failed_means: str
    not_made: str


BLINDNESS = PromptTest(
    key="blindness",
    title="Blindness test",
    own="own image",
    changes=("another image", "blank image"),
    scalars=(
        "reward/blind_accuracy_shuffled",
        "reward/blind_accuracy_blank",
        "reward/blindness_gap",
    ),
    passed="looks at the image",
    failed="ignores the image",
    passed_means="It prefers the better response more often with the right image than without.",
    failed_means="It is as accurate without the right image: it judges the text, not the image.",
    not_made="With another image every pair is too long for the model.",
)
INSTRUCTION_TEST = PromptTest(
    key="instruction_test",
    title="Wrong-instruction test",
    own="own instruction",
    changes=("another instruction",),
    scalars=("reward/wrong_instruction_accuracy", "reward/instruction_gap"),
    passed="reads the question",
    failed="does not read the question",
    passed_means="It prefers the better response more often with the pair's own instruction.",
    failed_means="It is as accurate with the instruction of another pair: the image and the "
    "responses tell it which is better, or only their style.",
    not_made="Every pair has the same instruction, so there is no wrong one.",
)
PROMPT_TESTS = (BLINDNESS, INSTRUCTION_TEST)


@dataclass(frozen=True)
class PromptTestMetrics:
    """Result of a test; one that could not be made has no accuracies.

    Attributes:
        test: what was changed.
        accuracies: with the own prompts, then under each change.
        margins: mean score of the preferred response minus that of the other, reward-model units,
            in the same order.
        gap: accuracy with the own prompts minus the best under a change.
        low: lower end of the 95 % interval of the gap.
        high: upper end of that interval.
        images: distinct images of decided pairs.
        passed: whether the model reads the changed part; None: it cannot be told.
    """

    test: PromptTest
    accuracies: tuple[Estimate, ...] = ()
    margins: tuple[Estimate, ...] = ()
    gap: float = nan
    low: float = nan
    high: float = nan
    images: int = 0
    passed: bool | None = None

    @property
    def verdict(self) -> str:
        """Whether the model reads the changed part, in words."""
        if not self.accuracies:
            return self.test.not_made
        if self.passed is None:
            return f"cannot be told from {self.accuracies[0].pairs:,} pairs"
        return self.test.passed if self.passed else self.test.failed

    @property
    def images_needed(self) -> int | None:
        """About how many images would tell, if the gap stays; None if it is told, or none would.

        The ends of the interval come nearer to the gap as one over the root of the images.
        """
        shares = [(self.gap - self.low) / self.gap] if self.gap > 0 else []
        if self.gap < MIN_GAP:
            shares.append((self.high - self.gap) / (MIN_GAP - self.gap))
        if self.passed is not None or not self.images or not shares:
            return None
        return max(MIN_IMAGES, ceil(self.images * min(shares) ** 2))

    def scalars(self) -> dict[str, float]:
        """Return the metrics to log, by their names in METRICS."""
        values = *(accuracy.value for accuracy in self.accuracies[1:]), self.gap
        return dict(zip(self.test.scalars, values, strict=True)) if self.accuracies else {}

    def as_dict(self) -> dict[str, Any]:
        """Return every metric with the verdict, without the description of the test."""
        return {x: value for x, value in asdict(self).items() if x != "test"} | {
            "verdict": self.verdict
        }


def prompt_test_metrics(
    test: PromptTest, pairs: ChangedPairs | None, *, seed: int = 0
) -> PromptTestMetrics:
    """Measure how much a part of the prompt adds to the accuracy, and whether the model reads it.

        gap = accuracy(own) - max over changes of accuracy(changed)

    Images are resampled once for all of them, so the interval is that of a paired difference.
    The model reads the part if the interval lies above 0, and ignores it if the interval ends below
    0.05. Over fewer than 20 images it cannot be told.

    Args:
        test: names the changes.
        pairs: n pairs, scored with their own prompts and under each change; None: there are none.
        seed: of the 2,000 resamples of whole images behind the intervals.
    """
    if pairs is None:
        return PromptTestMetrics(test)
    names = test.own, *test.changes
    columns = [part.credit for part in pairs.all] + [part.margins for part in pairs.all]
    values = torch.stack(columns, dim=1)
    means = resampled(values, pairs.own.image_ids, seed)
    found, count = estimates((*names, *names), values, means), len(names)
    gaps = means[:, 0] - means[:, 1:count].amax(dim=1)
    low, high = map(float, percentile_interval(gaps))
    images = pairs.own.decided_images
    return PromptTestMetrics(
        test,
        found[:count],
        found[count:],
        found[0].value - max(accuracy.value for accuracy in found[1:count]),
        low,
        high,
        images,
        exceeds_zero(low, high, images, negligible=MIN_GAP),
    )
