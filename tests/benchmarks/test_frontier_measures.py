"""What the frontier study measures of a run, on literals."""

from collections.abc import Sequence

import pytest

from tests.benchmarks.frontier import curve, measures


def test_a_score_is_reached_by_the_mean_of_three_iterations() -> None:
    scores = curve([0, 3, 0, 0, 3, 3, 3], [0] * 7)
    assert measures.reached(scores, 1.0) == 2
    assert measures.reached(scores, 2.0) == 5
    assert measures.reached(scores, 3.1) is None
    assert measures.reached(curve([9, 9], [0, 0]), 1.0) is None


@pytest.fixture
def unsmoothed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "SMOOTHED", 1)


@pytest.mark.usefixtures("unsmoothed")
def test_the_score_at_a_kl_is_interpolated_and_the_best_within_it() -> None:
    straight = curve([0, 1, 3], [0, 1, 2])
    assert measures.at_kl(straight, 0.5) == measures.Point(0.5, 0.5, 0.5)
    assert measures.at_kl(straight, 1.5) == measures.Point(1.5, 2.0, 0.5)
    assert measures.at_kl(straight, 9.0) == measures.Point(2.0, 3.0, 0.5)
    falling = curve([0, 4, 1], [0, 1, 2])
    assert measures.at_kl(falling, 2.0).score == 4.0
    back = curve([0, 1, 5], [0, 2, 1])  # it returns to less KL with a greater score
    assert measures.at_kl(back, 1.0) == measures.Point(1.0, 5.0, 0.5)
    assert measures.at_kl(curve([2, 3], [1, 1]), 0.5).score == 2.0  # none is within the budget


@pytest.mark.usefixtures("unsmoothed")
def test_the_accuracy_at_a_kl_is_that_of_the_best_scored_point() -> None:
    hacked = {**curve([0, 1, 2], [0, 1, 2]), "accuracy": [0.5, 0.9, 0.4]}
    assert measures.at_kl(hacked, 2.0).accuracy == 0.4
    assert measures.at_kl(hacked, 1.5).accuracy == pytest.approx(0.65)


def test_points_are_means_of_five_iterations() -> None:
    points = measures.frontier(curve([0, 1, 2, 3, 4, 10], [0, 0, 0, 0, 5, 5]))
    assert (points[4].score, points[4].kl) == (2.0, 1.0)
    assert (points[5].score, points[5].kl) == (4.0, 2.0)


@pytest.mark.parametrize(
    ("scores", "kl", "is_collapsed"),
    [
        ([1.0] * 10 + [2.0] * 10, 1.0, False),
        ([1.0] * 10 + [4.0] * 10 + [1.9] * 10, 1.0, True),  # below half of its best
        ([1.0] * 10 + [4.0] * 10 + [2.1] * 10, 1.0, False),
        ([1.0] * 10 + [0.9] * 10, 1.0, True),  # below its start
        ([-3.0] * 10 + [-1.0] * 10, 1.0, False),
        ([1.0] * 10 + [2.0] * 10, 26.0, True),  # too far away
    ],
)
def test_collapse(scores: Sequence[float], kl: float, is_collapsed: bool) -> None:
    assert measures.collapsed(curve(scores, [kl] * len(scores))) == is_collapsed
