"""Estimates of the KL divergence from sampled tokens, and where each may stand."""

from torch import Tensor

from rlhf.functional.checks import check_same_shape
from rlhf.kernels.reference import widened


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """[N] nats, float32 or better: KL(policy ‖ reference) at each token sampled from the policy.

        d = logprob - ref_logprob        k1 = d        k2 = d²/2        k3 = e⁻ᵈ - 1 + d

    k1 belongs in the reward and k2 in the loss; k3, never negative, is for logging only: see
    `check_kl_choice`.

    Source: Schulman 2020, "Approximating KL divergence".
    """
    check_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    difference = widened(logprobs) - widened(ref_logprobs)
    if kind == "k1":
        return difference
    if kind == "k2":
        return difference.square() / 2
    if kind == "k3":
        return (-difference).expm1() + difference
    raise ValueError(f"kind: got {kind!r}, wanted 'k1', 'k2' or 'k3'")


SOUND = {"reward": ("k1",), "loss": ("k2", "exact")}
# Total variation from the known optimum of a five-armed bandit, where no penalty leaves 0.76; the
# sound choices reach 0.000 (k1 in the reward), 0.004 and 0.000 (k2 and exact in the loss).
_HARM = {
    ("reward", "k2"): "it pays for drifting below the reference as much as it charges for rising",
    ("reward", "k3"): "its mean is the KL but its gradient is not: 0.20 off the optimum",
    ("reward", "abs"): "|k1| charges the tokens that lower the KL as well: 0.18 off the optimum",
    ("reward", "clamp"): "max(k1, 0) is biased upwards: 0.18 off the optimum",
    ("reward", "exact"): "it gives every token of a state the same reward, hence no gradient",
    ("loss", "k1"): "its gradient is zero in the mean: 0.76 off the optimum, as without any KL",
    ("loss", "k3"): "its gradient is that of another divergence: 0.43 off the optimum",
    ("loss", "abs"): "its gradient is only the sign of the log-ratio",
    ("loss", "clamp"): "its gradient sees only the tokens that rose",
}


def check_kl_choice(placement: str, kind: str) -> None:
    """Raise ValueError unless this estimator pulls to π_ref·exp(r/β)/Z from this place.

    Args: placement "reward" or "loss"; kind "k1", "k2", "k3", "abs", "clamp" or "exact".
    """
    if kind in SOUND.get(placement, ()):
        return
    why = _HARM.get((placement, kind), "no such choice")
    sound = " or ".join(f"{k} in the {place}" for place, kinds in SOUND.items() for k in kinds)
    raise ValueError(f"{kind} in the {placement}: {why}; wanted {sound}")
