"""How far from the known optimum PPO ends, with seeds 0, 1, 2.

`python -m tests.proofs.distances` prints total variations: about three minutes.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from tests.proofs.problems import (
    BANDIT,
    NOISY,
    WRONG,
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
    """One distance a seed, everything inside `block`."""
    with block or nullcontext():
        return [distance(problems[seed], seed, **options) for seed in SEEDS]


def lines() -> dict[str, list[float]]:
    """Distances by what was run."""
    bandit, words = [BANDIT] * len(SEEDS), [sequences(seed) for seed in SEEDS]
    found = {
        "bandit, k1 in the reward": distances(bandit),
        "bandit, k2 in the loss": distances(bandit, **NOISY),
        "bandit, exact KL in the loss": distances(bandit, **EXACT),
        "bandit, rloo": distances(bandit, **RLOO),
        "bandit, grpo": distances(bandit, **GRPO),
        "bandit, grpo with the KL in the loss": distances(bandit, **GRPO, kl_placement="loss"),
        "bandit, constant lr, whitening with floor 0.1": distances(bandit, **CONSTANT),
        "bandit, constant lr, floor 1e-8": distances(bandit, **CONSTANT, whiten_min_std=1e-8),
        "sequences, λ = 0.95": distances(words),
        "sequences, λ = 1": distances(words, gae_lambda=1.0),
        "sequences, rloo": distances(words, **RLOO),
        "sequences, grpo": distances(words, **GRPO),
        "sequences, score one token early": distances(words, early_score()),
    }
    for kind in ("k2", "k3", "abs", "clamp"):
        found[f"bandit, {kind} in the reward"] = distances(bandit, reward_kl(WRONG[kind]))
    for kind in ("k1", "k3", "abs", "clamp"):
        block = loss_kl(WRONG[kind])
        found[f"bandit, {kind} in the loss"] = distances(bandit, block, kl_placement="loss")
    late = [trained(words[i], i, **NOISY | {"adam_eps": 1e-5, "gae_lambda": 1.0}) for i in SEEDS]
    pairs = list(zip(words, late, strict=True))
    found["sequences, k2 in the loss"] = [one.distance(policy) for one, policy in pairs]
    found["the same, from the optimum without the KL of later tokens"] = [
        one.distance(policy, sees_later_kl=False) for one, policy in pairs
    ]
    start = [one.distance(trained(one, 0, lr=1e-30, iterations=1)) for one in [BANDIT, *words]]
    found["reference: bandit and the three sequences"] = start
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, values in lines().items():
        print(f"{name:60}", "  ".join(f"{value:.4f}" for value in values))
