"""Responses of up to three tokens: PPO reaches the optimum of soft dynamic programming."""

import math

import pytest

from tests.proofs.problems import NOISY, distance, early_score, sequences, trained


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dynamic_programming_finds_the_tilted_reference(seed: int) -> None:
    """Over whole responses the optimum is π_ref(y)·exp(score(y)/β)/Z."""
    problem = sequences(seed)
    weights = {
        response: math.prod(problem.reference[token] for token in response)
        * math.exp(score / problem.kl_coef)
        for response, score in problem.scores.items()
    }
    best = problem.optimum()
    for response, weight in weights.items():
        assert best[response] == pytest.approx(weight / math.fsum(weights.values()), rel=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ppo_reaches_the_optimum(seed: int) -> None:
    assert distance(sequences(seed), seed) < 0.005


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_score_one_token_early_misses_the_optimum(seed: int) -> None:
    with early_score():
        assert distance(sequences(seed), seed) >= 0.3


def test_rloo_reaches_the_optimum_without_a_critic() -> None:
    assert distance(sequences(0), 0, advantage_estimator="rloo", samples_per_prompt=4) < 0.005


def test_a_kl_in_the_loss_charges_a_token_for_its_own_kl_only() -> None:
    """It solves another problem with a known optimum, 0.17 from that of the KL in the reward."""
    problem = sequences(0)
    policy = trained(problem, 0, gae_lambda=1.0, **NOISY | {"adam_eps": 1e-5})
    assert problem.distance(policy, sees_later_kl=False) < 0.02
    assert problem.distance(policy) > 0.1
