"""A one-token bandit: PPO ends at π_ref·exp(r/β)/Z, and only with a valid KL penalty."""

import math

import pytest

from rlhf.functional.kl import WHY_INVALID
from tests.proofs.problems import BANDIT, ESTIMATES, NOISY, distance, loss_kl, reward_kl


def test_the_optimum_by_hand() -> None:
    """r/β is 0, 1, 2, 4, 5."""
    weights = [0.5, 0.3 * math.e, 0.15 * math.e**2, 0.04 * math.e**4, 0.01 * math.e**5]
    best = BANDIT.optimum()
    for arm, weight in enumerate(weights):
        assert best[(arm,)] == pytest.approx(weight / sum(weights), rel=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_k1_in_the_reward_reaches_the_optimum(seed: int) -> None:
    assert distance(BANDIT, seed) < 0.005


@pytest.mark.parametrize("kind", ["k2", "k3", "abs", "clamp"])
def test_another_estimate_in_the_reward_misses_the_optimum_by_the_documented_distance(
    kind: str,
) -> None:
    with reward_kl(ESTIMATES[kind]):
        final_distance = distance(BANDIT, 0)
    assert (
        final_distance == pytest.approx(WHY_INVALID["reward", kind][1], abs=0.01)
        and final_distance > 0.1
    )


@pytest.mark.parametrize(("kind", "seed"), [("k2", 0), ("k2", 1), ("k2", 2), ("exact", 0)])
def test_k2_and_the_exact_kl_in_the_loss_reach_the_optimum(kind: str, seed: int) -> None:
    assert distance(BANDIT, seed, kl_estimator=kind, **NOISY) < 0.01


@pytest.mark.parametrize("kind", ["k1", "k3", "abs", "clamp"])
def test_another_estimate_in_the_loss_misses_the_optimum_by_the_documented_distance(
    kind: str,
) -> None:
    with loss_kl(ESTIMATES[kind]):
        final_distance = distance(BANDIT, 0, kl_placement="loss")
    assert (
        final_distance == pytest.approx(WHY_INVALID["loss", kind][1], abs=0.01)
        and final_distance > 0.1
    )


def test_whitening_needs_a_floor() -> None:
    """At the optimum all advantages are 0: without a floor their rounding errors become ±1."""
    assert distance(BANDIT, 0, lr_schedule="constant") < 0.005
    assert distance(BANDIT, 0, lr_schedule="constant", whiten_min_std=1e-8) > 0.01


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_advantages_without_a_critic_reach_the_optimum(estimator: str) -> None:
    assert distance(BANDIT, 0, advantage_estimator=estimator, samples_per_prompt=4) < 0.005


def test_grpo_with_the_kl_in_the_loss_has_another_optimum() -> None:
    """Scores are divided by their spread and the KL is not: kl_coef is no price in reward."""
    options = {"advantage_estimator": "grpo", "samples_per_prompt": 4, "kl_placement": "loss"}
    assert distance(BANDIT, 0, **options) > 0.1
