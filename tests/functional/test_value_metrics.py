"""Explained variance, of one rollout and of the last ones together: literals, and a plain loop."""

import json
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.functional import PooledExplainedVariance, explained_variance
from tests.support.float64 import exact, quick, random_float64

Rollouts = Sequence[tuple[Tensor, Tensor]]  # values and returns of each
STEADY = exact([1.0, 0.0]), exact([0.0, 1.0])  # returns vary by 1/4 around 1/2, errors by 1
VARIED = exact([0.0, 0.0, 6.0]), exact([0.0, 3.0, 6.0])  # returns by 6 around 3, errors by 2


def pooled(rollouts: Rollouts, max_rollouts: int = 10) -> PooledExplainedVariance:
    statistic = PooledExplainedVariance(max_rollouts)
    for values, returns in rollouts:
        statistic.add(values, returns)
    return statistic


def random_rollouts(sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Values [N] and returns [N] of each size, whose means and variances differ."""
    return [
        (random_float64(size), 10 * index + (1 + index) * random_float64(size))
        for index, size in enumerate(sizes)
    ]


def test_explained_variance_literals() -> None:
    returns = torch.tensor([1.0, 3.0])
    assert explained_variance(returns, returns).item() == 1.0
    assert explained_variance(returns[:0], returns[:0]).item() == 0.0
    assert explained_variance(returns + 5, returns).item() == 1.0
    assert explained_variance(torch.tensor([2.0, 2.0]), returns).item() == 0.0
    assert explained_variance(torch.tensor([3.0, 1.0]), returns).item() == -3.0
    assert explained_variance(returns, torch.tensor([0.1, 0.1])).item() == 0.0
    constant = torch.full((3,), 0.1, dtype=torch.float64)
    assert explained_variance(random_float64(3), constant).item() == 0.0
    with pytest.raises(ValueError, match="returns"):
        explained_variance(returns, returns[:1])


def test_variances_are_pooled_by_token_not_the_ratios_of_the_rollouts() -> None:
    """Squares around the own means: errors 2·1 + 3·2 = 8, returns 2·1/4 + 3·6 = 18.5."""
    assert [float(explained_variance(*rollout)) for rollout in (STEADY, VARIED)] == pytest.approx(
        [-3.0, 2 / 3]
    )
    assert pooled([STEADY, VARIED]).value == pytest.approx(1 - 8 / 18.5)
    assert pooled([VARIED, STEADY]).value == pytest.approx(1 - 8 / 18.5)


@quick
@given(st.lists(st.integers(2, 9), min_size=1, max_size=14))
def test_the_pooled_metric_is_that_of_a_loop_over_the_last_rollouts(sizes: list[int]) -> None:
    rollouts, unexplained, total = random_rollouts(sizes), 0.0, 0.0
    for values, returns in rollouts[-10:]:
        errors = [r - v for v, r in zip(values.tolist(), returns.tolist(), strict=True)]
        unexplained += sum((x - sum(errors) / len(errors)) ** 2 for x in errors)
        total += sum((x - sum(returns.tolist()) / len(returns)) ** 2 for x in returns.tolist())
    assert pooled(rollouts).value == pytest.approx(1 - unexplained / total, rel=1e-9)


def test_one_rollout_has_its_own_explained_variance() -> None:
    values, returns = random_float64(7), random_float64(7)
    expected = float(explained_variance(values, returns))
    assert pooled([(values, returns)]).value == pytest.approx(expected)


def test_the_eleventh_rollout_drops_the_first() -> None:
    rollouts = random_rollouts([4] * 11)
    assert pooled(rollouts).value == pooled(rollouts[1:]).value
    assert pooled(rollouts[:10]).value != pooled(rollouts[1:10]).value
    assert pooled([VARIED, STEADY], max_rollouts=1).value == pooled([STEADY]).value


def test_a_shift_of_the_values_or_returns_of_one_rollout_makes_no_difference() -> None:
    """The mean over all rollouts would take the shift for variance."""
    values, returns = VARIED
    expected = pooled([STEADY, VARIED]).value
    assert pooled([STEADY, (values + 32, returns)]).value == expected
    assert pooled([STEADY, (values, returns + 32)]).value == expected


def test_returns_that_do_not_vary_are_not_explained() -> None:
    constant = torch.full((3,), 0.1, dtype=torch.float64)
    assert PooledExplainedVariance().value == 0.0
    assert pooled([(random_float64(3), constant)]).value == 0.0
    assert pooled([(constant[:0], constant[:0])]).value == 0.0
    added_errors = pooled([VARIED, (exact([0.0, 3.0]), exact([5.0, 5.0]))]).value
    assert added_errors == pytest.approx(1 - (6 + 4.5) / 18)


def test_it_refuses_shapes_that_disagree_and_an_empty_window() -> None:
    with pytest.raises(ValueError, match="values, returns: got shapes"):
        PooledExplainedVariance().add(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="max_rollouts: got 0"):
        PooledExplainedVariance(0)


def test_the_state_survives_json_and_continues_to_the_bit() -> None:
    rollouts = random_rollouts([5, 3, 8, 2])
    uninterrupted, saved = pooled(rollouts[:3], 3), pooled(rollouts[:3], 3)
    state = saved.state_dict()
    text = json.dumps(state)
    resumed = PooledExplainedVariance(3)
    resumed.load_state_dict(json.loads(text))
    for statistic in (uninterrupted, resumed, saved):
        statistic.add(*rollouts[3])
    assert resumed.value == uninterrupted.value
    assert resumed.state_dict() == uninterrupted.state_dict()
    assert json.dumps(state) == text, "a state is a copy"
