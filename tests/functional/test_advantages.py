"""Generalized advantages: literals, other formulas of the same thing, scipy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from rlhf.functional import (
    generalized_advantages,
    length_adaptive_lambda,
)
from rlhf.spans import Spans
from tests.support import oracles
from tests.support.float64 import EXACT, exact, quick, ragged, random_float64, unit


def test_advantages_literal() -> None:
    spans = Spans.from_lengths([2, 1])
    rewards, values = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0])
    got, returns = generalized_advantages(rewards, values, spans, gamma=0.5, gae_lambda=0.5)
    assert got.tolist() == [1.25, 1.0, 1.0]
    assert returns.tolist() == [1.75, 2.0, 3.0]


@quick
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), unit, unit)
def test_advantages_are_the_mixture_of_k_step_ones(
    lengths: list[int], gamma: float, gae_lambda: float
) -> None:
    spans = Spans.from_lengths(lengths)
    rewards, values = random_float64(spans.num_tokens), random_float64(spans.num_tokens)
    pairs = zip(
        oracles.split(rewards.tolist(), lengths),
        oracles.split(values.tolist(), lengths),
        strict=True,
    )
    expected = exact([a for r, v in pairs for a in oracles.advantages(r, v, gamma, gae_lambda)])
    got, returns = generalized_advantages(
        rewards, values, spans, gamma=gamma, gae_lambda=gae_lambda
    )
    torch.testing.assert_close(got, expected, **EXACT)
    torch.testing.assert_close(returns - values, expected, **EXACT)


@quick
@given(ragged, unit, unit)
def test_advantages_agree_with_scipy(lengths: list[int], gamma: float, gae_lambda: float) -> None:
    spans = Spans.from_lengths(lengths)
    rewards, values = random_float64(spans.num_tokens), random_float64(spans.num_tokens)
    got, _ = generalized_advantages(rewards, values, spans, gamma=gamma, gae_lambda=gae_lambda)
    for b in range(len(spans)):
        where = spans.token_indices([b])
        r, v = rewards[where].numpy(), values[where].numpy()
        errors = r - v
        errors[:-1] += gamma * v[1:]
        expected = lfilter([1], [1, -gamma * gae_lambda], errors[::-1])[::-1]
        torch.testing.assert_close(got[where], torch.from_numpy(expected.copy()), **EXACT)


def test_advantage_identities() -> None:
    spans = Spans.from_lengths([3, 1, 2])
    rewards, values = random_float64(6), random_float64(6, grad=True)
    _, returns = generalized_advantages(rewards, values, spans, gamma=1.0, gae_lambda=1.0)
    reward_sums = [
        sum(span_rewards[i:])
        for span_rewards in oracles.split(rewards.tolist(), [3, 1, 2])
        for i in range(len(span_rewards))
    ]
    torch.testing.assert_close(returns, exact(reward_sums), **EXACT)
    assert not returns.requires_grad
    half, _ = generalized_advantages(
        rewards.bfloat16(), values.bfloat16(), spans, gamma=1.0, gae_lambda=0.9
    )
    assert half.dtype == torch.float32


def test_a_cut_response_continues_with_its_final_value() -> None:
    """The same as one more token that is worth its value: V = 4 after a cut, γ = λ = ½."""
    spans, rewards = Spans.from_lengths([2, 1]), exact([1.0, 2.0, 3.0])
    values = exact([0.5, 1.0, 2.0])
    got, returns = generalized_advantages(
        rewards, values, spans, gamma=0.5, gae_lambda=0.5, final_values=exact([4.0, 0.0])
    )
    # δ = 1 + ½·1 - ½ = 1, 2 + ½·4 - 1 = 3 | 3 - 2 = 1
    assert got.tolist() == [1.75, 3.0, 1.0]
    assert returns.tolist() == [2.25, 4.0, 3.0]
    with pytest.raises(ValueError, match=r"per_span: got shape \[1\]"):
        generalized_advantages(
            rewards, values, spans, gamma=1.0, gae_lambda=1.0, final_values=exact([1.0])
        )


@quick
@given(ragged, unit)
def test_each_response_may_have_its_own_lambda(lengths: list[int], gamma: float) -> None:
    spans = Spans.from_lengths(lengths)
    rewards, values, lambdas = (
        random_float64(spans.num_tokens),
        random_float64(spans.num_tokens),
        torch.rand(len(lengths)),
    )
    got, _ = generalized_advantages(rewards, values, spans, gamma=gamma, gae_lambda=lambdas)
    for b, gae_lambda in enumerate(lambdas.tolist()):
        indices, single_span = spans.token_indices([b]), spans.select([b])
        expected, _ = generalized_advantages(
            rewards[indices], values[indices], single_span, gamma=gamma, gae_lambda=gae_lambda
        )
        torch.testing.assert_close(got[indices], expected, rtol=1e-6, atol=1e-6)


def test_length_adaptive_lambda_literals() -> None:
    """At α = 0.05: 1 - 20 / length, never under 0."""
    got = length_adaptive_lambda(torch.tensor([1, 19, 20, 40, 200]), 0.05)
    torch.testing.assert_close(got, exact([0, 0, 0, 0.5, 0.9]), **EXACT)
    with pytest.raises(ValueError, match="alpha: got 0"):
        length_adaptive_lambda(torch.tensor([1]), 0.0)


@pytest.mark.parametrize("bad", [[0.5], [0.5, 1.5], [-0.1, 0.5], [float("nan"), 0.5]])
def test_lambdas_out_of_range_are_refused(bad: list[float]) -> None:
    spans, zeros = Spans.from_lengths([1, 1]), torch.zeros(2)
    with pytest.raises(ValueError, match="gae_lambda: got"):
        generalized_advantages(zeros, zeros, spans, gamma=1.0, gae_lambda=torch.tensor(bad))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"gamma": 1.1}, "gamma: got 1.1"), ({"gae_lambda": -0.1}, "gae_lambda: got -0.1")],
)
def test_advantages_refuse(options: dict, message: str) -> None:
    spans, zeros = Spans.from_lengths([2]), torch.zeros(2)
    with pytest.raises(ValueError, match=message):
        generalized_advantages(zeros, zeros, spans, **{"gamma": 1.0, "gae_lambda": 1.0} | options)
    for rewards, values in ((zeros[:1], zeros), (zeros, zeros[:, None])):
        with pytest.raises(ValueError, match="(rewards|values): got shape"):
            generalized_advantages(rewards, values, spans, gamma=1.0, gae_lambda=1.0)
