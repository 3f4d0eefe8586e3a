"""KL divergence from sampled tokens: estimators, valid placements, and an adaptive coefficient."""

from math import isfinite

from torch import Tensor

from rlhf.functional.checks import check_between, check_positive, check_same_shape
from rlhf.kernels.dtypes import at_least_float32


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """Estimate KL(policy ‖ reference) [N], nats, at each token sampled from the policy.

        d = logprob - ref_logprob        k1 = d        k2 = d²/2        k3 = e⁻ᵈ - 1 + d

    k1 belongs in the reward and k2 in the loss; k3, never negative, is for logging only: see
    `check_kl_choice`.

    Args:
        logprobs: [N], nats, of the policy.
        ref_logprobs: [N], nats, of the reference.
        kind: "k1", "k2" or "k3".

    Returns:
        [N], float32 (float64 for float64 inputs), differentiable.

    Raises:
        ValueError: shapes disagree, or there is no such kind.

    Source: Schulman 2020, "Approximating KL divergence".
    """
    check_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    log_ratio = at_least_float32(logprobs) - at_least_float32(ref_logprobs)
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    if kind == "k3":
        return (-log_ratio).expm1() + log_ratio
    raise ValueError(f"kind: got {kind!r}, wanted 'k1', 'k2' or 'k3'")


VALID_KL = {"reward": ("k1",), "loss": ("k2", "exact")}
# (placement, kind) -> why it is wrong, and the total variation distance between the policy it
# trains on the five-armed bandit of tests/proofs and the known optimum. The distance is 0.75
# without a penalty and below 0.01 with a valid one.
WHY_INVALID: dict[tuple[str, str], tuple[str, float | None]] = {
    ("reward", "k2"): ("it penalizes tokens below the reference like tokens above it", 0.31),
    ("reward", "k3"): ("its mean is the KL, but its policy gradient is not the KL's", 0.40),
    ("reward", "abs"): ("|k1| also penalizes the tokens that lower the KL", 0.21),
    ("reward", "clamp"): ("max(k1, 0) ignores every token below the reference", 0.21),
    ("reward", "exact"): ("it does not depend on the sampled token, so it has no effect", None),
    ("loss", "k1"): ("the mean of its gradient is zero", 0.75),
    ("loss", "k3"): ("its gradient is the reverse KL's", 0.51),
    ("loss", "abs"): ("its gradient depends only on the sign of the log-ratio", 0.71),
    ("loss", "clamp"): ("its gradient ignores the tokens below the reference", 0.75),
}


def check_kl_choice(placement: str, kind: str) -> None:
    """Raise an error if a KL estimator in this placement does not lead to a known optimum.

    In the reward, the optimum is π_ref·exp(score/β)/Z over whole responses. In the loss, each token
    is penalized for its own KL but not for the KL of later tokens: the optimum is
    π(a) ∝ π_ref(a)·exp(Q(a)/β) at each state, with Q the expected score. For responses of one token
    the two are equal.

    Args:
        placement: "reward" or "loss".
        kind: "k1", "k2" or "exact"; "k3", "abs" and "clamp" are never valid.

    Raises:
        ValueError: says why the choice is wrong, and which choices are valid.
    """
    if kind in VALID_KL.get(placement, ()):
        return
    why, distance = WHY_INVALID.get((placement, kind), ("no such choice", None))
    if distance is not None:
        why += f", and on a bandit it ends {distance} (total variation) from the optimum"
    valid = " or ".join(f"{k} in the {place}" for place, kinds in VALID_KL.items() for k in kinds)
    raise ValueError(f"{kind} in the {placement}: {why}; wanted {valid}")


class AdaptiveKLController:
    """Adapts the KL coefficient so that the KL of a response approaches a target.

        e = clip(KL / target - 1, ±0.2)        β ← clip(β·(1 + e·n / horizon), lowest, highest)

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
        """Set the start and the target.

        Args:
            kl_coef: β at the start, reward units per nat.
            target: nats, KL summed over a response.
            horizon: number of responses over which β changes by the relative error.
            lowest: smallest β, above 0.
            highest: largest β.

        Raises:
            ValueError: target, horizon or lowest is not above 0, or kl_coef outside its bounds.
        """
        check_positive("target", target)
        check_positive("horizon", horizon)
        check_positive("lowest", lowest)
        check_between("kl_coef", kl_coef, lowest, highest)
        self.kl_coef, self.target, self.horizon = kl_coef, target, horizon
        self.lowest, self.highest = lowest, highest

    def update(self, kl: float, responses: int) -> float:
        """Update the coefficient after a batch and return it.

        Args:
            kl: mean KL of a response, nats; if it is not finite, the coefficient stays.
            responses: n, number of responses in the batch.
        """
        if isfinite(kl):
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            kl_coef = self.kl_coef * (1 + error * responses / self.horizon)
            self.kl_coef = min(max(kl_coef, self.lowest), self.highest)
        return self.kl_coef

    def state_dict(self) -> dict[str, float]:
        """Return the coefficient, for a checkpoint."""
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.kl_coef = state["kl_coef"]
