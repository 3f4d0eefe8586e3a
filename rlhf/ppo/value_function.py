"""The value function of a run: predicts values, learns from rollouts, and says if it is of use."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from rlhf.config.schema import PPOConfig
from rlhf.functional import (
    PooledExplainedVariance,
    PromptReturns,
    RidgeRegression,
    ValueFeatures,
    ValueFeatureScaler,
    value_features,
)
from rlhf.kernels import span_sum
from rlhf.models.value_head import ValueHead
from rlhf.tracking.console import say
from rlhf.types import PromptBatch, Responses


class LearningRollout(Protocol):
    """What is read of a rollout: see `RolloutBuffer`."""

    prompts: PromptBatch
    responses: Responses
    old_logprobs: Tensor
    ref_logprobs: Tensor
    rewards: Tensor
    values: Tensor
    returns: Tensor
    value_features: Tensor | None
    critic_states: Tensor | None


class ValueFunction:
    """Adds value features to the critic's values, and fits its head to each rollout.

    With `critic_fit=ridge` the head is fitted in closed form to the last rollouts; with `gradient`
    the updates train it, and `learn` only measures.

    Args:
        config: reads `critic_fit`, `value_features`, `critic_min_explained_variance`.
        head: of the critic; its weights are set by `learn`.

    Attributes:
        explained_variance: of the last rollouts, by values predicted before they were learnt from.
    """

    def __init__(self, config: PPOConfig, head: ValueHead) -> None:
        self.config, self.head = config, head
        self.scaler = ValueFeatureScaler(config.value_features)
        self.regression = RidgeRegression() if config.critic_fit == "ridge" else None
        self.explained_variance = PooledExplainedVariance()
        self.prompt_returns = PromptReturns()

    @property
    def is_useful(self) -> bool:
        """Whether advantages use the values: they explain enough of the returns so far."""
        least = self.config.critic_min_explained_variance
        return least is None or self.explained_variance.value >= least

    def features(self, rollout: LearningRollout) -> ValueFeatures:
        """Return the standardized value features of a rollout, whose rewards are known."""
        groups = rollout.prompts.sampling_keys
        return self.scaler.scale(
            value_features(
                rollout.old_logprobs,
                rollout.ref_logprobs,
                _response_returns(rollout),
                rollout.responses.spans,
                groups,
                self.prompt_returns.means(groups),
            )
        )

    @torch.no_grad()
    def feature_values(self, features: ValueFeatures) -> tuple[Tensor, Tensor]:
        """Return what standardized value features add to the values: [N] and [B] float32."""
        values = [self.head.feature_values(rows) for rows in features]
        tokens, ends = torch.cat(values).cpu().split([len(rows) for rows in features])
        return tokens, ends

    def learn(self, rollout: LearningRollout) -> None:
        """Measure the values of a rollout, then fit the head to it.

        Args:
            rollout: a finished buffer.
        """
        was_useful = self.is_useful
        self.explained_variance.add(rollout.values, rollout.returns)
        self.prompt_returns.add(_response_returns(rollout), rollout.prompts.sampling_keys)
        if self.regression:
            assert rollout.critic_states is not None and rollout.value_features is not None
            inputs = torch.cat([rollout.critic_states, rollout.value_features], 1)
            self.regression.add(inputs, rollout.returns)
            self.head.set_weights(*self.regression.solve())
        if self.is_useful != was_useful:
            self._tell()

    def _tell(self) -> None:
        share = f"the critic explains {self.explained_variance.value:.0%} of the returns"
        use = "use its values" if self.is_useful else "are plain returns (V = 0, λ = 1)"
        say(f"{share}: from the next iteration on advantages {use}")

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of the state, by name, for a checkpoint."""
        regression = self.regression.state_dict() if self.regression else {}
        return {**regression, **self.prompt_returns.state_dict()}

    def state_dict(self) -> dict[str, Any]:
        """The rest of the state, as JSON."""
        return {
            "features": self.scaler.state_dict(),
            "explained_variance": self.explained_variance.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` and `tensors` returned."""
        self.scaler.load_state_dict(state["features"])
        self.explained_variance.load_state_dict(state["explained_variance"])
        self.prompt_returns.load_state_dict(tensors)
        if self.regression:
            self.regression.load_state_dict(tensors)


def _response_returns(rollout: LearningRollout) -> Tensor:
    """Summed rewards of each response, [B], reward units."""
    return span_sum(rollout.rewards, rollout.responses.spans)
