"""Metrics of one optimizer step of PPO."""

from dataclasses import dataclass

TOKEN_MEANS = (  # metrics of StepMetrics that are means over the tokens of a step
    "policy_loss",
    "value_loss",
    "approx_kl",
    "clipfrac",
    "value_clipfrac",
    "ratio",
    "entropy",
    "kl_loss",
)


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one optimizer step; means over its tokens unless stated otherwise.

    Attributes:
        policy_loss: clipped surrogate loss.
        value_loss: clipped value loss before vf_coef, squared reward units.
        approx_kl: k2 estimate of KL(old policy ‖ new policy), nats.
        clipfrac: fraction of tokens whose ratio was clipped.
        value_clipfrac: fraction of tokens whose value was clipped.
        ratio: new over old probability.
        entropy: of the policy, nats.
        kl_loss: KL penalty in the loss before kl_coef, nats; 0 when it is in the reward.
        ratio_gap: largest |ratio - 1| of the tokens.
        grad_norm_policy: L2 norm of the policy's gradient before clipping.
        grad_norm_critic: L2 norm of the critic's gradient before clipping.
        outcome: `taken`, `skipped` (not finite) or `stopped` (approx_kl over target_kl); only a
            taken step moves weights.
    """

    policy_loss: float
    value_loss: float
    approx_kl: float
    clipfrac: float
    value_clipfrac: float
    ratio: float
    entropy: float
    kl_loss: float
    ratio_gap: float
    grad_norm_policy: float
    grad_norm_critic: float
    outcome: str
