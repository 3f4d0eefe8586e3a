"""Ridge regression on a stream of batches, older ones weighted less."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rlhf.functional.checks import check_between, check_positive
from rlhf.spans import check_rows


class RidgeRegression:
    """Fits y ≈ w·x + b in closed form to all batches so far, each weighted less with its age.

        minimize Σ_k decay^age(k) · [Σ_i (w·x_i + b - y_i)² / n + α·Σ_j (w_j·σ_j)²]

    n is the number of samples and σ_j the standard deviation of input j, both weighted alike, so
    that neither the unit of an input nor the number of samples changes the fit. Targets are
    clipped to `clip` standard deviations around the mean of all targets so far. The only state is
    a matrix of sums, whatever the number of batches.

    Args:
        decay: weight of a batch relative to the next one, in [0, 1]; 0.9 is about the last ten.
        alpha: α above 0.
        clip: above 0, standard deviations.

    Attributes:
        moments: [F + 2, F + 2] float64, weighted Σ z·zᵀ of z = (x, 1, y); None before a batch.

    Raises:
        ValueError: an option is out of range.

    Source: Hoerl and Kennard 1970; clipped targets: Huber 1964.
    """

    def __init__(self, *, decay: float = 0.9, alpha: float = 0.03, clip: float = 3.0) -> None:
        check_between("decay", decay, 0, 1)
        check_positive("alpha", alpha)
        check_positive("clip", clip)
        self.decay, self.alpha, self.clip = decay, alpha, clip
        self.moments: Tensor | None = None

    @torch.no_grad()
    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            inputs: [N, F].
            targets: [N].

        Raises:
            ValueError: shapes disagree.
        """
        check_rows("targets", targets, len(inputs))
        targets = self._clipped(targets.double())  # float64, and with them the rows
        rows = torch.cat([inputs, torch.ones_like(targets)[:, None], targets[:, None]], 1)
        products = rows.T @ rows
        old = 0 if self.moments is None else self.decay * self.moments
        self.moments = old + products

    def solve(self) -> tuple[Tensor, Tensor]:
        """Return the weights w [F] and the intercept b [], float64.

        Raises:
            ValueError: there is no batch yet.
        """
        if self.moments is None:
            raise ValueError("solve: no batch was added")
        count = self.moments[-2, -2]
        means = self.moments[:, -2] / count
        covariance = self.moments / count - torch.outer(means, means)
        std = covariance.diagonal()[:-2].clamp(min=0).sqrt()
        std = torch.where(std > 1e-6 * means[:-2].abs(), std, torch.inf)  # constant: w = 0
        scaled = covariance[:-2, :-2] / torch.outer(std, std)
        scaled.diagonal().add_(self.alpha)
        weights = torch.linalg.solve(scaled, covariance[:-2, -1] / std) / std
        return weights, means[-1] - weights @ means[:-2]

    def _clipped(self, targets: Tensor) -> Tensor:
        """Clip targets around the mean of the earlier ones, or their own if those vary less."""
        mean, variance = targets.mean(), targets.var(correction=0)
        if self.moments is not None:
            mean = self.moments[-1, -2] / self.moments[-2, -2]
            variance = self.moments[-1, -1] / self.moments[-2, -2] - mean.square()
        bound = self.clip * variance.clamp(min=targets.var(correction=0)).sqrt()
        return targets.clamp(mean - bound, mean + bound)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moments, if there are any, for a checkpoint."""
        return {} if self.moments is None else {"moments": self.moments}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.moments = state.get("moments")
