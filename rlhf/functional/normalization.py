"""Whitening, and scaling of scores by a running standard deviation."""

from math import sqrt

from torch import Tensor

from rlhf.functional.checks import check_positive
from rlhf.kernels.dtypes import at_least_float32


def whiten(values: Tensor, *, min_std: float = 1e-8) -> Tensor:
    """Shift values [N] to mean 0 and scale them to standard deviation 1.

        (x - mean) / max(std, min_std)        std² = Σ (x - mean)² / n

    The variance divides by n; trl's `masked_whiten` divides by n - 1.

    Args:
        values: [N].
        min_std: above 0, in the unit of the values; a smaller standard deviation is treated as
            noise and not scaled up to 1.

    Returns:
        [N], float32 (float64 for float64 values).

    Raises:
        ValueError: min_std is not above 0.
    """
    check_positive("min_std", min_std)
    if not values.numel():
        return at_least_float32(values)
    exact = values.double()  # float32 rounding of the mean would be noise, too
    mean, std = exact.mean(), exact.std(correction=0)
    return ((exact - mean) / std.clamp(min=min_std)).to(at_least_float32(values).dtype)


class ScoreScaler:
    """Divides scores by the standard deviation of all scores so far; the mean is not shifted.

    Shifting the mean would change which responses have a score above their KL penalty. While all
    scores are equal they are not divided.

    Source: Engstrom et al. 2020, arXiv:2005.12729; running moments: Chan et al. 1979.
    """

    def __init__(self, clip: float | None = None) -> None:
        """Start with empty statistics.

        Args:
            clip: largest absolute value of a scaled score; None: no clipping.

        Raises:
            ValueError: clip is not above 0.
        """
        if clip is not None:
            check_positive("clip", clip)
        self.clip, self.count, self.mean, self.squares = clip, 0, 0.0, 0.0

    @property
    def std(self) -> float:
        """Population standard deviation so far; 1 until the scores vary."""
        std = sqrt(self.squares / self.count) if self.count else 0.0
        return std if std > 1e-8 * max(1.0, abs(self.mean)) else 1.0

    def scale(self, scores: Tensor) -> Tensor:
        """Add scores [B] to the statistics and return them scaled, [B].

        Scores that are not finite are not added.
        """
        self._observe(scores.detach().double()[scores.isfinite()])
        scaled = at_least_float32(scores) / self.std
        return scaled if self.clip is None else scaled.clamp(-self.clip, self.clip)

    def _observe(self, scores: Tensor) -> None:
        if not len(scores):
            return
        mean, count = float(scores.mean()), self.count + len(scores)
        mean_diff, share = mean - self.mean, len(scores) / count
        self.squares += float((scores - mean).square().sum()) + mean_diff**2 * share * self.count
        self.mean, self.count = self.mean + mean_diff * share, count

    def state_dict(self) -> dict[str, float]:
        """Return count, mean and sum of squared deviations, for a checkpoint."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.count, self.mean = int(state["count"]), state["mean"]
        self.squares = state["squares"]
