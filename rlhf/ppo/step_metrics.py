"""Metrics of one optimizer step of PPO, and the KL that all steps of a rollout spend."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan

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
        num_tokens: response tokens of the step.
        num_responses: responses of the step.
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
    num_tokens: int
    num_responses: int
    outcome: str


def kl_spent(steps: Sequence[StepMetrics], steps_per_epoch: int) -> float:
    """KL(old policy ‖ new policy) of a response that the last epoch of a rollout measures, nats.

        Σ_steps Σ_tokens (log π_new - log π_old)² / 2  /  Σ_steps responses

    A step measures its minibatch before it moves the weights: the last epoch measures each response
    once, and leaves out what its later steps add. Where target_kl cuts it off, the responses up to
    there count, those of the stopped step among them. A skipped step counts if its KL is finite.

    Args:
        steps: of one rollout, in order.
        steps_per_epoch: steps of an epoch that is not cut off.

    Returns:
        The mean over the responses that were measured; NaN without any.
    """
    start = (len(steps) - 1) // steps_per_epoch * steps_per_epoch
    measured = [step for step in steps[start:] if isfinite(step.approx_kl)]
    responses = sum(step.num_responses for step in measured)
    kl = sum(step.approx_kl * step.num_tokens for step in measured)
    return kl / responses if responses else nan
