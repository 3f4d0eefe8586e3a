"""Advantages relative to the group: literals, other formulas of the same thing, any order."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.functional import grpo_advantages, mean_of_others, rloo_advantages
from tests.support.float64 import EXACT, exact, quick, random_float64

groupings = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


def test_rloo_literal() -> None:
    """A group of 1, 2, 6: against the means 4, 3.5 and 1.5 of the others."""
    scores, groups = exact([1.0, 9.0, 2.0, 6.0]), torch.tensor([5, 2, 5, 5])
    assert rloo_advantages(scores, groups).tolist() == [-3.0, 0.0, -1.5, 4.5]


def test_the_mean_of_the_others_literal() -> None:
    """A group of 1, 2, 6, and one alone, whose others are unknown."""
    scores, groups = exact([1.0, 9.0, 2.0, 6.0]), torch.tensor([5, 2, 5, 5])
    others = mean_of_others(scores, groups)
    assert others[[0, 2, 3]].tolist() == [4.0, 3.5, 1.5] and others[1].isnan()
    assert mean_of_others(scores.bfloat16(), groups).dtype == torch.float64


def test_grpo_literal() -> None:
    """A group of 1, 2, 6: mean 3, sample variance (4 + 1 + 9) / 2 = 7."""
    scores, groups = exact([1.0, 9.0, 2.0, 6.0]), torch.tensor([5, 2, 5, 5])
    std = math.sqrt(7) + 0.5
    expected = exact([-2 / std, 0, -1 / std, 3 / std])
    torch.testing.assert_close(grpo_advantages(scores, groups, eps=0.5), expected, **EXACT)


@quick
@given(groupings)
def test_rloo_is_the_score_minus_the_mean_of_the_others(names: list[int]) -> None:
    scores, groups = random_float64(len(names)), torch.tensor(names)
    got = rloo_advantages(scores, groups).tolist()
    values = scores.tolist()
    for b, name in enumerate(names):
        other_scores = [values[j] for j in range(len(names)) if names[j] == name and j != b]
        expected = values[b] - statistics.fmean(other_scores) if other_scores else 0.0
        assert got[b] == pytest.approx(expected, abs=1e-12)


@quick
@given(groupings)
def test_grpo_standardises_each_group(names: list[int]) -> None:
    scores, groups = random_float64(len(names)), torch.tensor(names)
    got = grpo_advantages(scores, groups, eps=1e-9)
    for name in set(names):
        group = got[groups == name]
        assert group.mean().item() == pytest.approx(0, abs=1e-9)
        if len(group) > 1:
            assert statistics.stdev(group.tolist()) == pytest.approx(1, abs=1e-4)


def test_equal_scores_have_no_advantage() -> None:
    scores, groups = torch.full((7,), 0.1), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    assert grpo_advantages(scores, groups, eps=1e-4).abs().max().item() < 1e-9
    assert rloo_advantages(scores, groups).abs().max().item() < 1e-9


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_advantages_of_a_group_do_not_depend_on_other_groups(kind: str) -> None:
    def advantages(scores: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        if kind == "rloo":
            return rloo_advantages(scores, groups)
        return grpo_advantages(scores, groups, eps=1e-4)

    scores, groups = torch.tensor([1.0, math.nan, 4.0, 2.0]), torch.tensor([0, 1, 0, 1])
    assert advantages(scores, groups).isnan().tolist() == [False, True, False, True]
    expected = advantages(scores[[0, 2]], groups[[0, 2]])
    assert torch.equal(advantages(scores, groups)[[0, 2]], expected)
    assert advantages(torch.zeros(0), torch.zeros(0).long()).shape == (0,)
    assert advantages(torch.zeros(1), torch.zeros(1).long()).tolist() == [0]
    assert advantages(torch.zeros(2).bfloat16(), torch.zeros(2).long()).dtype == torch.float32
    graded = torch.ones(2, requires_grad=True)
    assert not advantages(graded, torch.zeros(2).long()).requires_grad
    for bad in (torch.zeros(3).long(), torch.zeros(2, 1).long()):
        with pytest.raises(ValueError, match="(scores|groups): got shape"):
            advantages(torch.zeros(2), bad)


def test_grpo_refuses_an_eps_of_zero() -> None:
    with pytest.raises(ValueError, match="eps: got 0"):
        grpo_advantages(torch.zeros(2), torch.zeros(2).long(), eps=0.0)
