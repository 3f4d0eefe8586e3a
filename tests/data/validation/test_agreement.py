"""Agreement of annotators: published examples, and a plain loop over judgments."""

from itertools import combinations
from random import Random

import numpy as np
import pytest

from rlhf.data.records import PreferenceRecord
from rlhf.data.validation.agreement import (
    AnnotatorJudgments,
    cohens_kappa,
    krippendorffs_alpha,
    wilson_interval,
)

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", sections A and C; 0: missing
TWO = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
FOUR = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]


def test_alpha_of_the_published_examples() -> None:
    counts_of_two = np.array(
        [[column.count(label) for label in (0, 1)] for column in zip(*TWO, strict=True)]
    )
    assert krippendorffs_alpha(counts_of_two) == pytest.approx(0.095, abs=5e-4)
    four = [[column.count(label) for label in range(1, 6)] for column in zip(*FOUR, strict=True)]
    assert krippendorffs_alpha(np.array(four)) == pytest.approx(0.743, abs=5e-4)


def test_kappa_worked_by_hand() -> None:
    """Of 50 things both say yes to 20, one alone to 5, the other alone to 10: κ = 0.4."""
    first = np.array([1] * 25 + [0] * 25)
    second = np.array([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15)
    # p_o = 35/50, p_e = 1/2·3/5 + 1/2·2/5
    assert cohens_kappa(first, second) == pytest.approx(0.4)


def test_nobody_can_disagree_about_one_label() -> None:
    labels = np.ones(4, dtype=int)
    assert cohens_kappa(labels, labels) is None
    assert krippendorffs_alpha(np.array([[0, 2], [0, 2]])) is None
    assert krippendorffs_alpha(np.zeros((0, 3), dtype=int)) is None


def test_wilson_interval_worked_by_hand() -> None:
    # n = 10, p = 0.2, z² = 3.8415: (0.2 + 0.19207 ± 1.95996·√(0.016 + 0.0096036)) / 1.38415
    assert wilson_interval(2, 10) == pytest.approx((0.05668, 0.50984), abs=1e-5)
    assert wilson_interval(0, 5)[0] == pytest.approx(0, abs=1e-12)


def record(image: int, a: str, b: str, wins: str, who: str, left: str = "") -> PreferenceRecord:
    return PreferenceRecord(f"{image}.png", "What?", a, b, wins, annotator=who, shown_left=left)


def test_sides_of_the_file_and_of_the_screen_do_not_matter() -> None:
    judgments = AnnotatorJudgments()
    judgments.add(record(0, "x", "y", "response_a", "eva", "response_a"), 7, 1)
    judgments.add(record(0, "y", "x", "response_b", "udo", "response_a"), 7, 1)
    judgments.add(record(1, "x", "y", "tie", "eva", "response_a"), 8, 0)
    judgments.add(record(1, "x", "y", "response_b", "udo"), 8, 2)
    result = judgments.metrics()
    assert result["annotators"] == {"eva": 2, "udo": 2}
    assert (result["left_share"], result["decided_with_sides"]) == (0.5, 2)
    (pair_kappa,) = result["kappa"]
    assert (pair_kappa["annotators"], pair_kappa["pairs"]) == (["eva", "udo"], 2)
    assert pair_kappa["kappa"] == pytest.approx((1 / 2 - 1 / 4) / (1 - 1 / 4))


def test_the_metrics_are_those_of_a_loop() -> None:
    draw, judgments = Random(0), AnnotatorJudgments()
    label_by_annotator: dict[int, dict[str, int]] = {}
    for _ in range(400):
        pair, who, label = draw.randrange(60), draw.choice("abcd"), draw.randrange(3)
        wins = ("tie", "response_a", "response_b")[label]
        judgments.add(record(pair, "x", "y", wins, who), pair, label)
        label_by_annotator.setdefault(pair, {})[who] = label  # the last word counts
    result = judgments.metrics()
    values = [
        labels
        for labels in ([*unit.values()] for unit in label_by_annotator.values())
        if len(labels) > 1
    ]
    flat = [label for labels in values for label in labels]
    observed = sum(
        (x != y) * 2 / (len(labels) - 1) for labels in values for x, y in combinations(labels, 2)
    ) / len(flat)
    expected = sum(2 * (x != y) for x, y in combinations(flat, 2)) / (len(flat) * (len(flat) - 1))
    assert result["alpha"] == pytest.approx(1 - observed / expected)
    assert result["judged_by_several"] == len(values)
    assert result["annotators"] == {
        who: sum(who in unit for unit in label_by_annotator.values())
        for who in result["annotators"]
    }


def test_without_names_there_is_nothing() -> None:
    result = AnnotatorJudgments().metrics()
    assert (
        result["annotators"] == {} and result["alpha"] is None and result["left_interval"] is None
    )
