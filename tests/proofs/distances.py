"""Prints the distance from the known optimum at which PPO ends, with seeds 0, 1, 2.

`python -m tests.proofs.distances` prints total variations; it takes about three minutes.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from tests.proofs.problems import (
    BANDIT,
    ESTIMATES,
    NOISY,
    RIDGE,
    Problem,
    distance,
    early_score,
    loss_kl,
    reward_kl,
    sequences,
    trained,
)

SEEDS = (0, 1, 2)
RLOO: dict[str, Any] = {"advantage_estimator": "rloo", "samples_per_prompt": 4}
GRPO: dict[str, Any] = {"advantage_estimator": "grpo", "samples_per_prompt": 4}
EXACT: dict[str, Any] = NOISY | {"kl_estimator": "exact"}
CONSTANT: dict[str, Any] = {"lr_schedule": "constant"}


def distances(
    problems: list[Problem], block: AbstractContextManager[Any] | None = None, **options: Any
) -> list[float]:
    """Return the distance for each seed, inside the context `block`."""
    with block or nullcontext():
        return [distance(problems[seed], seed, **options) for seed in SEEDS]


def all_distances() -> dict[str, list[float]]:
    """Return the distances of all runs by name."""
    bandit, problems = [BANDIT] * len(SEEDS), [sequences(seed) for seed in SEEDS]
    results = {
        "bandit, k1 in the reward": distances(bandit),
        "bandit, k2 in the loss": distances(bandit, **NOISY),
        "bandit, exact KL in the loss": distances(bandit, **EXACT),
        "bandit, rloo": distances(bandit, **RLOO),
        "bandit, grpo": distances(bandit, **GRPO),
        "bandit, grpo with the KL in the loss": distances(bandit, **GRPO, kl_placement="loss"),
        "bandit, constant lr, whitening with floor 0.1": distances(bandit, **CONSTANT),
        "bandit, constant lr, floor 1e-8": distances(bandit, **CONSTANT, whiten_min_std=1e-8),
        "sequences, λ = 0.95": distances(problems),
        "sequences, λ = 1": distances(problems, gae_lambda=1.0),
        "sequences, ridge with value features": distances(problems, **RIDGE),
        "sequences, reinforce": distances(problems, advantage_estimator="reinforce"),
        "sequences, rloo": distances(problems, **RLOO),
        "sequences, grpo": distances(problems, **GRPO),
        "sequences, score one token early": distances(problems, early_score()),
    }
    for kind in ("k2", "k3", "abs", "clamp"):
        results[f"bandit, {kind} in the reward"] = distances(bandit, reward_kl(ESTIMATES[kind]))
    for kind in ("k1", "k3", "abs", "clamp"):
        block = loss_kl(ESTIMATES[kind])
        results[f"bandit, {kind} in the loss"] = distances(bandit, block, kl_placement="loss")
    policies = [
        trained(problems[i], i, **NOISY | {"adam_eps": 1e-5, "gae_lambda": 1.0}) for i in SEEDS
    ]
    pairs = list(zip(problems, policies, strict=True))
    results["sequences, k2 in the loss"] = [problem.distance(policy) for problem, policy in pairs]
    results["sequences, k2 in the loss, from the optimum without the KL of later tokens"] = [
        problem.distance(policy, sees_later_kl=False) for problem, policy in pairs
    ]
    start = [x.distance(trained(x, 0, lr=1e-30, iterations=1)) for x in [BANDIT, *problems]]
    results["reference: bandit and the three sequences"] = start
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, values in all_distances().items():
        print(f"{name:75}", "  ".join(f"{value:.4f}" for value in values))
