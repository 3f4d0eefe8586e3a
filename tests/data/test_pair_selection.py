"""The selected pairs are those worked out by hand from the scores."""

from math import nan

import pytest

from rlhf.config.choices import PairChoice
from rlhf.data.pair_selection import select_pairs

SCORES = [[1.0, 4.0, 2.5, 2.0], [0.0, 0.25], [nan, 3.0], [7.0, nan, 5.0]]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("best_vs_worst", [(0, 0, 1, 3.0), (1, 0, 1, 0.25), (3, 0, 2, -2.0)]),
        ("closest", [(0, 2, 3, -0.5), (1, 0, 1, 0.25), (3, 0, 2, -2.0)]),
    ],
)
def test_one_pair_is_selected_for_each_prompt(
    choice: PairChoice, expected: list[tuple[int, int, int, float]]
) -> None:
    assert select_pairs(SCORES, choice) == expected
    assert select_pairs(SCORES, choice, limit=2) == expected[:2]


def test_uncertain_ones_of_all_prompts_come_first() -> None:
    result = select_pairs(SCORES, "uncertain")
    assert [abs(pair.score_diff) for pair in result] == [0.25, 0.5, 1.0, 1.5, 1.5, 2.0, 2.0, 3.0]
    assert result[0][:3] == (1, 0, 1) and result[-1][:3] == (0, 0, 1)
    assert len({(pair.row, frozenset(pair[1:3])) for pair in result}) == len(result)
    assert select_pairs(SCORES, "uncertain", limit=3) == result[:3]


def test_without_two_scores_there_is_no_pair() -> None:
    for choice in ("best_vs_worst", "closest", "uncertain"):
        assert select_pairs([[nan, 1.0], [nan], []], choice) == []
