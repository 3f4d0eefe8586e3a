"""How well the critic's values predict the returns: explained variance, of one rollout and more."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlhf.functional.checks import check_positive, check_same_shape
from rlhf.kernels.dtypes import at_least_float32


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """Share of the variance of the returns that the values explain.

        1 - Var(returns - values) / Var(returns)

    Args:
        values: [N], reward units.
        returns: [N], reward units.

    Returns:
        0-d, at most 1; 0 if the returns do not vary.

    Raises:
        ValueError: shapes disagree.
    """
    check_same_shape(values=values, returns=returns)
    if not returns.numel():
        return at_least_float32(values).new_zeros(())
    exact = returns.double()
    unexplained = (exact - values.double()).var(correction=0) / exact.var(correction=0)
    constant = (returns == returns[:1]).all()
    return torch.where(constant, 0, 1 - unexplained).to(at_least_float32(values).dtype)


class PooledExplainedVariance:
    """Explained variance of the last rollouts together, each around its own means.

        1 - Σ_k n_k·Var(returns_k - values_k) / Σ_k n_k·Var(returns_k)

    Rollout k has n_k tokens. The returns of one rollout may vary 60 times as much as those of the
    next; `explained_variance` of one that varies little is far below 0 for a critic that is of use.

    Attributes:
        max_rollouts: number of rollouts that are pooled; older ones are dropped.
    """

    def __init__(self, max_rollouts: int = 10) -> None:
        """Start without a rollout.

        Args:
            max_rollouts: number of rollouts that are pooled.

        Raises:
            ValueError: max_rollouts is not above 0.
        """
        check_positive("max_rollouts", max_rollouts)
        self.max_rollouts = max_rollouts
        self._unexplained: list[float] = []  # Σ (error - mean error)² of each rollout
        self._total: list[float] = []  # Σ (return - mean return)² of each rollout

    def add(self, values: Tensor, returns: Tensor) -> None:
        """Add a rollout, and drop the oldest if there are more than `max_rollouts`.

        Args:
            values: [N], reward units, predicted before the critic learnt from the rollout.
            returns: [N], reward units.

        Raises:
            ValueError: shapes disagree.
        """
        check_same_shape(values=values, returns=returns)
        exact = returns.double()
        self._unexplained.append(_squared_deviations(exact - values.double()))
        self._total.append(_squared_deviations(exact))
        del self._unexplained[: -self.max_rollouts], self._total[: -self.max_rollouts]

    @property
    def value(self) -> float:
        """Explained variance of the rollouts that are held, at most 1; 0 if no returns vary."""
        total = sum(self._total)
        return 1 - sum(self._unexplained) / total if total else 0.0

    def state_dict(self) -> dict[str, list[float]]:
        """Return the sums of squared deviations of each rollout, as JSON."""
        return {"unexplained": list(self._unexplained), "total": list(self._total)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._unexplained, self._total = list(state["unexplained"]), list(state["total"])


def _squared_deviations(numbers: Tensor) -> float:
    """Sum of squared deviations of numbers [N] from their mean; exactly 0 if all are equal."""
    shifted = numbers - numbers[:1]  # the mean of equal numbers may differ from them by rounding
    return float((shifted - shifted.mean()).square().sum())
