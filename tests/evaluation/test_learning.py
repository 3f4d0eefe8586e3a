"""What training taught: the gain by hand, its paired interval, and its verdicts."""

import json
from dataclasses import replace

import pytest
import torch

from rlhf.evaluation.learning import TrainingGain, Trainings, training_gain
from rlhf.evaluation.scored_pairs import Estimate, ScoredPairs
from rlhf.storage.run_directory import json_text
from tests.evaluation.test_reward_metrics import scored, with_accuracy


def gain_of(before: ScoredPairs, after: ScoredPairs) -> TrainingGain:
    return training_gain(Trainings(before, (before, after), (1, 2)))


def test_the_gain_of_four_pairs() -> None:
    """Wrong, right, equal and a tie before; right, right, wrong after: from 1.5 to 2 of 3."""
    labels = [1, 0, 1, 0.5]
    gain = gain_of(scored([-1.0, -2.0, 0.0, 5.0], labels), scored([1.0, -9.0, -1.0, 5.0], labels))
    assert (gain.before.pairs, gain.before.value) == (3, 0.5)
    assert gain.after.value == pytest.approx(2 / 3) and gain.gain == pytest.approx(1 / 6)
    assert (gain.low, gain.high) == (-0.5, 1)  # each pair three times: -0.5, 0 and 1
    assert gain.scalars() == {"reward/start_accuracy": 0.5, "reward/accuracy_gain": gain.gain}
    assert gain.sentence == (
        "cannot be told from 3 pairs: 50.0 % before, 66.7 % after "
        "(difference 16.7 points, -50.0 to 100.0)"
    )


def test_the_gain_is_paired() -> None:
    """70 and 90 of 100 right, the same 70 among them: each differs on a fifth of the images."""
    gain = gain_of(with_accuracy(0.7), with_accuracy(0.9))
    # ± 1.96·√(0.2·0.8 / 100) = 0.078; unpaired it would be 0.108
    assert gain.low == pytest.approx(0.122, abs=0.015)
    assert gain.high == pytest.approx(0.278, abs=0.015)
    assert gain.verdict == "has learnt"


@pytest.mark.parametrize(
    ("before", "after", "images", "verdict"),
    [
        (0.90, 0.60, 100, "is worse than before training"),
        (0.00, 1.00, 19, "cannot be told from 19 pairs"),
        (0.00, 1.00, 20, "has learnt"),
    ],
)
def test_the_verdict(before: float, after: float, images: int, verdict: str) -> None:
    assert gain_of(with_accuracy(before, images), with_accuracy(after, images)).verdict == verdict


def gained_and_lost(images: int, gained: int, lost: int) -> TrainingGain:
    """The gain where half are right before, then some of these are not and others are."""
    rows, half = torch.arange(images), images // 2
    before, after = rows < half, (rows >= lost) & (rows < half + gained)
    return gain_of(*(scored(2 * right.float() - 1) for right in (before, after)))


def test_a_small_gain_that_may_be_none_is_no_learning() -> None:
    """Of 400 pairs 14 are gained and 10 lost: 1 point, ± 1.96·√24 / 400 = 2.4."""
    gain = gained_and_lost(400, 14, 10)
    assert gain.gain == pytest.approx(0.01) and gain.verdict == "has not learnt"
    assert (gain.low, gain.high) == pytest.approx((-0.014, 0.034), abs=0.003)
    loss = gained_and_lost(400, 10, 14)
    assert loss.gain == pytest.approx(-0.01) and loss.verdict == "has not learnt"


def test_a_wide_interval_about_0_gives_no_verdict() -> None:
    """Of 100 pairs 25 are gained and 20 lost: 5 points, ± 1.96·√45 / 100 = 13."""
    gain = gained_and_lost(100, 25, 20)
    assert (gain.low, gain.high) == pytest.approx((-0.08, 0.18), abs=0.02)
    assert gain.verdict == "cannot be told from 100 pairs"


def test_the_sentence_and_the_facts_of_the_card() -> None:
    accuracies = Estimate("", 240, 0.521, 0.45, 0.58), Estimate("", 240, 0.53, 0.46, 0.59)
    gain = TrainingGain(*accuracies, 0.009, -0.04, 0.06, 80, learnt=False)
    sentence = "has not learnt: 52.1 % before, 53.0 % after (difference 0.9 points, -4.0 to 6.0)"
    assert gain.facts() == {
        "start_accuracy": 0.521,
        "held_out_accuracy": 0.53,
        "gain_low": -0.04,
        "gain_high": 0.06,
        "learnt": sentence,
    }
    even = replace(gain, gain=-0.0001, low=0.0, high=0.0)
    assert even.sentence.endswith("(difference 0.0 points, 0.0 to 0.0)")


def test_without_a_decided_pair_nothing_is_said_in_the_card() -> None:
    gain = gain_of(scored([1.0], [0.5]), scored([2.0], [0.5]))
    assert gain.facts() == {} and gain.verdict == "cannot be told from 0 pairs"
    assert json.loads(json_text(gain.as_dict()))["gain"] is None


def test_trainings_of_folds_are_pooled() -> None:
    first, second = scored([1.0, 2.0]), scored([3.0])
    pooled = Trainings.concatenate(
        [Trainings(first, (first, first), (10, 31)), Trainings(second, (second, second), (13, 32))]
    )
    assert pooled.sizes == (12, 32)  # of 11.5 and 31.5, halves to even
    assert [x.differences.tolist() for x in (pooled.untrained, *pooled.trained)] == [[1, 2, 3]] * 3
