"""Estimates of the KL divergence from sampled tokens."""

from torch import Tensor

from rlhf.functional.checks import check_same_shape
from rlhf.kernels.reference import widened


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """[N] nats, float32 or better: KL(policy ‖ reference) at each token sampled from the policy.

        d = logprob - ref_logprob        k1 = d        k2 = d²/2        k3 = e⁻ᵈ - 1 + d

    k1 belongs in the reward and k2 in the loss; k3, never negative, is for logging only.

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
