"""Tests of what a model reads: gaps and margins by hand, and their verdicts."""

import json
from dataclasses import replace

import pytest
import torch

from rlhf.evaluation.prompt_tests import (
    BLINDNESS,
    INSTRUCTION_TEST,
    PromptTestMetrics,
    prompt_test_metrics,
)
from rlhf.evaluation.scored_pairs import ChangedPairs, ScoredPairs
from rlhf.storage.run_directory import json_text
from tests.evaluation.test_reward_metrics import scored, with_accuracy

LOOKS, IGNORES, TOO_FEW = "looks at the image", "ignores the image", "cannot be told from {} pairs"


def blindness(own: ScoredPairs, shuffled: ScoredPairs, blank: ScoredPairs) -> PromptTestMetrics:
    return prompt_test_metrics(BLINDNESS, ChangedPairs(own, (shuffled, blank)))


def instruction_test(own: ScoredPairs, wrong: ScoredPairs) -> PromptTestMetrics:
    return prompt_test_metrics(INSTRUCTION_TEST, ChangedPairs(own, (wrong,)))


@pytest.mark.parametrize(
    "own_share, shuffled_share, blank_share, images, verdict",
    [
        (0.9, 0.5, 0.6, 100, LOOKS),
        (0.9, 0.5, 0.9, 100, IGNORES),  # one blinded model as good as the seeing one is enough
        (0.9, 0.9, 0.5, 100, IGNORES),
        (0.7, 0.9, 0.9, 100, IGNORES),
        (1.0, 0.0, 0.0, 19, TOO_FEW.format(19)),  # too few, however clear
        (1.0, 0.0, 0.0, 20, LOOKS),
    ],
)
def test_the_verdict(
    own_share: float, shuffled_share: float, blank_share: float, images: int, verdict: str
) -> None:
    blind = blindness(
        *(with_accuracy(share, images) for share in (own_share, shuffled_share, blank_share))
    )
    assert blind.verdict == verdict and blind.images == images


def test_images_are_counted_not_pairs() -> None:
    ten_images = [replace(with_accuracy(x), image_ids=torch.arange(100) // 10) for x in (1, 0, 0)]
    assert blindness(*ten_images).images == 10
    assert blindness(*ten_images).verdict == TOO_FEW.format(100)


def test_a_wide_interval_about_0_gives_no_verdict() -> None:
    """11 of 20 right with the image, and without it another 10: no verdict on so few."""
    own_images, without_images = scored([1.0] * 11 + [-1.0] * 9), scored([-1.0] * 10 + [1.0] * 10)
    blind = blindness(own_images, without_images, without_images)
    assert blind.gap == pytest.approx(0.05) and blind.low < -0.1 and blind.high > 0.1
    assert blind.verdict == TOO_FEW.format(20)


def test_the_gap_is_paired() -> None:
    """90 and 70 of 100 right, the same 70 among them: each differs on a fifth of the images."""
    blind = blindness(with_accuracy(0.9), with_accuracy(0.7), with_accuracy(0.1))
    assert blind.gap == pytest.approx(0.2)
    # ± 1.96·√(0.2·0.8 / 100) = 0.078; unpaired it would be 0.108
    assert blind.low == pytest.approx(0.122, abs=0.015)
    assert blind.high == pytest.approx(0.278, abs=0.015)


def test_blinded_scores_must_be_of_the_same_pairs() -> None:
    own_images, other_labels = scored([1.0, 1.0], [1, 0]), scored([1.0, 1.0], [0, 1])
    for mismatched in (other_labels, scored([1.0])):
        for arguments in (
            (own_images, mismatched, own_images),
            (own_images, own_images, mismatched),
        ):
            with pytest.raises(ValueError, match="same pairs"):
                blindness(*arguments)


@pytest.mark.parametrize(
    ("gap", "low", "high", "images", "needed"),
    [
        (0.04, -0.02, 0.10, 30, 68),  # to exclude 0: the interval ends 1.5 times too far away
        (-0.01, -0.08, 0.06, 40, 55),  # to exclude 0.05: 7 / 6 times, 54.4 images
        (0.04, -0.02, 0.05, 50, 50),  # the nearer of both ends
        (0.20, 0.10, 0.30, 8, 20),  # the interval would do, but of fewer than 20 it is not believed
        (0.04, -0.02, 0.10, 0, None),
    ],
)
def test_how_many_images_would_tell(
    gap: float, low: float, high: float, images: int, needed: int | None
) -> None:
    result = PromptTestMetrics(BLINDNESS, (), (), gap, low, high, images, passed=None)
    assert result.images_needed == needed
    assert replace(result, passed=True).images_needed is None


def test_margins_and_accuracies_of_four_pairs() -> None:
    """Right, wrong, wrong and a tie with the own instruction; all right with another one."""
    labels = [1, 1, 0, 0.5]
    own, wrong = scored([2.0, -1.0, 3.0, 0.5], labels), scored([1.0, 1.0, -4.0, 7.0], labels)
    metrics = instruction_test(own, wrong)
    names = ["own instruction", "another instruction"]
    assert [(x.name, x.pairs) for x in metrics.margins] == [(name, 3) for name in names]
    assert [x.value for x in metrics.accuracies] == pytest.approx([1 / 3, 1])
    assert [x.value for x in metrics.margins] == pytest.approx([(2 - 1 - 3) / 3, (1 + 1 + 4) / 3])
    assert metrics.margins[0].low == -3 and metrics.margins[0].high == 2  # one pair three times
    assert metrics.gap == pytest.approx(1 / 3 - 1)
    assert metrics.scalars() == {
        "reward/wrong_instruction_accuracy": 1,
        "reward/instruction_gap": metrics.gap,
    }
    assert metrics.verdict == "cannot be told from 3 pairs"


@pytest.mark.parametrize(
    ("wrong_share", "images", "verdict"),
    [
        (0.5, 100, "reads the question"),
        (0.9, 100, "does not read the question"),
        (0.0, 19, "cannot be told from 19 pairs"),
    ],
)
def test_the_verdict_on_instructions(wrong_share: float, images: int, verdict: str) -> None:
    metrics = instruction_test(with_accuracy(0.9, images), with_accuracy(wrong_share, images))
    assert metrics.verdict == verdict


def test_scalars_of_the_blindness_test() -> None:
    blind = blindness(with_accuracy(0.9), with_accuracy(0.5), with_accuracy(0.6))
    assert blind.scalars() == {
        "reward/blind_accuracy_shuffled": 0.5,
        "reward/blind_accuracy_blank": pytest.approx(0.6),
        "reward/blindness_gap": pytest.approx(0.3),
    }


def test_a_test_without_pairs_says_why() -> None:
    metrics = prompt_test_metrics(INSTRUCTION_TEST, None)
    assert metrics.verdict == "Every pair has the same instruction, so there is no wrong one."
    assert metrics.scalars() == {} and metrics.images_needed is None
    assert json.loads(json_text(metrics.as_dict()))["gap"] is None


def test_results_are_json_without_a_decided_pair() -> None:
    values = json.loads(json_text(blindness(*[scored([1.0], [0.5])] * 3).as_dict()))
    assert values["gap"] is None and values["verdict"] == "cannot be told from 0 pairs"
    assert "test" not in values and len(values["accuracies"]) == len(values["margins"]) == 3


def equal_scores(pairs: ScoredPairs) -> ScoredPairs:
    return replace(pairs, scores_b=pairs.scores_a)


def test_changed_pairs_are_concatenated_in_order() -> None:
    parts = scored([1.0, 2.0], images=[0, 1]), scored([3.0], images=[0])
    pairs = ChangedPairs.concatenate([ChangedPairs(x, (equal_scores(x),)) for x in parts])
    assert pairs.own.differences.tolist() == [1, 2, 3] and pairs.own.image_ids.tolist() == [0, 1, 2]
    assert [part.differences.tolist() for part in pairs.changed] == [[0, 0, 0]]
