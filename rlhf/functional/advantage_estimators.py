"""Registry of the advantage estimators that `ppo.advantage_estimator` can name.

To add an estimator, write one function here with `@advantage_estimator`. Configuration, rollout,
buffer, update and metrics use only the registry.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rlhf.functional.advantages import generalized_advantages, grpo_advantages, rloo_advantages
from rlhf.kernels import span_discounted_sum, span_sum
from rlhf.spans import Spans


@dataclass(frozen=True, kw_only=True)
class AdvantageInputs:
    """Rewards and values of B responses of N tokens, and the options of all estimators.

    Attributes:
        rewards: [N] float32, reward units, the KL penalty already subtracted.
        values: [N] float32, reward units, V of the state before each token.
        spans: where each response lies in the N tokens.
        groups: [B] int64, id of the prompt of each response.
        final_values: [B] float32, V after the last token; None: all 0.
        gamma: discount per token, in [0, 1].
        gae_lambda: λ of generalized advantages, in [0, 1]; a tensor [B] holds one per response.
        eps: added to the standard deviation of a group, reward units.
    """

    rewards: Tensor
    values: Tensor
    spans: Spans
    groups: Tensor
    final_values: Tensor | None
    gamma: float
    gae_lambda: float | Tensor
    eps: float


EstimatorFunction = Callable[[AdvantageInputs], Tensor]


@dataclass(frozen=True)
class AdvantageEstimator:
    """An advantage estimator and what it needs.

    Attributes:
        function: computes advantages [N], before whitening, from the inputs of an iteration.
        needs_critic: whether it uses values, so that a critic is trained.
        needs_groups: whether it compares responses to one prompt, so that each prompt needs several
            responses. Its advantages are centered already and are not whitened.
    """

    function: EstimatorFunction
    needs_critic: bool
    needs_groups: bool


ADVANTAGE_ESTIMATORS: dict[str, AdvantageEstimator] = {}


def advantage_estimator(
    name: str, *, needs_critic: bool, needs_groups: bool
) -> Callable[[EstimatorFunction], EstimatorFunction]:
    """Register the decorated function in ADVANTAGE_ESTIMATORS.

    Args:
        name: value of `ppo.advantage_estimator` that selects it.
        needs_critic: see `AdvantageEstimator`.
        needs_groups: see `AdvantageEstimator`.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: the name is registered already.
    """

    def register(function: EstimatorFunction) -> EstimatorFunction:
        if name in ADVANTAGE_ESTIMATORS:
            raise ValueError(f"advantage estimator {name!r} is registered already")
        ADVANTAGE_ESTIMATORS[name] = AdvantageEstimator(function, needs_critic, needs_groups)
        return function

    return register


@advantage_estimator("gae", needs_critic=True, needs_groups=False)
def _gae(inputs: AdvantageInputs) -> Tensor:
    return generalized_advantages(
        inputs.rewards,
        inputs.values,
        inputs.spans,
        gamma=inputs.gamma,
        gae_lambda=inputs.gae_lambda,
        final_values=inputs.final_values,
    )[0]


@advantage_estimator("reinforce", needs_critic=False, needs_groups=False)
def _reinforce(inputs: AdvantageInputs) -> Tensor:
    return span_discounted_sum(inputs.rewards, inputs.spans, inputs.gamma)


@advantage_estimator("rloo", needs_critic=False, needs_groups=True)
def _rloo(inputs: AdvantageInputs) -> Tensor:
    totals = span_sum(inputs.rewards, inputs.spans)
    return rloo_advantages(totals, inputs.groups)[inputs.spans.segment_ids]


@advantage_estimator("grpo", needs_critic=False, needs_groups=True)
def _grpo(inputs: AdvantageInputs) -> Tensor:
    totals = span_sum(inputs.rewards, inputs.spans)
    return grpo_advantages(totals, inputs.groups, eps=inputs.eps)[inputs.spans.segment_ids]
