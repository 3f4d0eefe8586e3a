"""Numbers that follow a run: the KL coefficient and the scale of the scores.

Both give their state as a plain dict, for the checkpoint.
"""

from math import isfinite, sqrt

from torch import Tensor

from rlhf.functional.checks import check_between, check_positive
from rlhf.kernels.span_ops import at_least_float32


class AdaptiveKLController:
    """A KL coefficient that steers the KL of a response to a target.

        e = clip(KL / target - 1, ±0.2)        β ← clip(β·(1 + e·n / horizon), lowest, highest)

    Args: kl_coef β at the start, reward units per nat; target, nats summed over a response;
        horizon, responses; lowest and highest bound β.
    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2.
    """

    def __init__(
        self,
        kl_coef: float,
        *,
        target: float = 6.0,
        horizon: float = 10_000,
        lowest: float = 1e-4,
        highest: float = 10.0,
    ) -> None:
        check_positive("target", target)
        check_positive("horizon", horizon)
        check_positive("lowest", lowest)
        check_between("kl_coef", kl_coef, lowest, highest)
        self.kl_coef, self.target, self.horizon = kl_coef, target, horizon
        self.lowest, self.highest = lowest, highest

    def update(self, kl: float, responses: int) -> float:
        """The next coefficient, after n `responses` of mean `kl`, nats; not finite, it stays."""
        if isfinite(kl):
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            kl_coef = self.kl_coef * (1 + error * responses / self.horizon)
            self.kl_coef = min(max(kl_coef, self.lowest), self.highest)
        return self.kl_coef

    def state_dict(self) -> dict[str, float]:
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.kl_coef = state["kl_coef"]


class ScoreScaler:
    """Divides scores by the standard deviation of all scores so far; their mean stays.

    Shifting the mean would change which answers are worth more than their KL. Until the scores
    vary they are not divided.

    Args: clip, the largest size of a divided score; None does not clip.
    Source: Engstrom et al. 2020, arXiv:2005.12729; moments: Chan et al. 1979.
    """

    def __init__(self, clip: float | None = None) -> None:
        if clip is not None:
            check_positive("clip", clip)
        self.clip, self.count, self.mean, self.squares = clip, 0, 0.0, 0.0

    @property
    def std(self) -> float:
        """Population standard deviation so far; 1 until the scores vary."""
        std = sqrt(self.squares / self.count) if self.count else 0.0
        return std if std > 1e-8 * max(1.0, abs(self.mean)) else 1.0

    def scale(self, scores: Tensor) -> Tensor:
        """[B] scores over the standard deviation, these included; not finite ones do not count."""
        self._observe(scores.detach().double()[scores.isfinite()])
        scaled = at_least_float32(scores) / self.std
        return scaled if self.clip is None else scaled.clamp(-self.clip, self.clip)

    def _observe(self, scores: Tensor) -> None:
        if not len(scores):
            return
        mean, count = float(scores.mean()), self.count + len(scores)
        apart, share = mean - self.mean, len(scores) / count
        self.squares += float((scores - mean).square().sum()) + apart**2 * share * self.count
        self.mean, self.count = self.mean + apart * share, count

    def state_dict(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.count, self.mean = int(state["count"]), state["mean"]
        self.squares = state["squares"]
