"""The rollout buffer: rewards, advantages and returns of an iteration, and its minibatches."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rlhf.config.schema import PPOConfig
from rlhf.functional import (
    ADVANTAGE_ESTIMATORS,
    AdvantageInputs,
    ScoreScaler,
    generalized_advantages,
    kl_estimate,
    length_adaptive_lambda,
    missing_eos_scores,
    per_token_rewards,
    whiten,
)
from rlhf.ppo.prompt_parts import PromptParts
from rlhf.ppo.value_function import ValueFunction
from rlhf.types import Minibatch, PromptBatch, Responses, Rollout


class RolloutBuffer:
    """Rollouts of one iteration: `append` them, `finish`, then draw `minibatches`.

    Per-token tensors are flat [N] float32 on the CPU, responses end to end, without padding.

    Args:
        parts: of the prompts, each of which every minibatch has about as much of; None: one part.

    Attributes:
        parts: of the prompts.
        prompts: B prompts.
        responses: B responses of N tokens.
        old_logprobs: [N], log-probabilities of the policy that sampled the responses, nats.
        ref_logprobs: [N], log-probabilities of the frozen reference, nats.
        values: [N], V of the critic before each token, reward units.
        value_features: [N, 5], standardized, inputs of the critic; None without value function.
        critic_states: [N, F], the other inputs of a closed-form fit; None: there is no fit.
        final_values: [B], V after the last token of truncated responses; None: no bootstrapping.
        ref_hidden_states: [N, D], of the reference; None unless the exact KL is in the loss.
        scores: [B], scaled and with the missing-EOS penalty, reward units.
        kl: [N], log π - log π_ref, nats.
        rewards: [N], reward units.
        uses_critic: whether the advantages are made of the values, if the estimator needs them.
        advantages: [N], reward units, or whitened.
        returns: [N], targets of the critic, reward units.
    """

    parts: PromptParts
    prompts: PromptBatch
    responses: Responses
    old_logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    value_features: Tensor | None
    critic_states: Tensor | None
    final_values: Tensor | None
    ref_hidden_states: Tensor | None
    scores: Tensor
    kl: Tensor
    rewards: Tensor
    uses_critic: bool
    advantages: Tensor
    returns: Tensor

    def __init__(self, parts: PromptParts | None = None) -> None:
        self._rollouts: list[Rollout] = []
        self._parts = parts

    def append(self, rollout: Rollout) -> None:
        """Add a rollout after the earlier ones."""
        self._rollouts.append(rollout)

    def finish(
        self,
        config: PPOConfig,
        scaler: ScoreScaler | None = None,
        value_function: ValueFunction | None = None,
    ) -> None:
        """Compute rewards, values, advantages and returns of every token.

            r_t = -kl_coef·(log π - log π_ref)(y_t) + [t = T]·score(x, y)

        Args:
            config: PPO options of the iteration, with its kl_coef.
            scaler: divides the scores by their standard deviation first; None: no scaling.
            value_function: adds what the value features say to the values, and says whether to use
                them; None: the values of the rollouts are used as they are.

        Source: Ouyang et al. 2022, arXiv:2203.02155, equation 2.
        """
        parts = self._rollouts
        self.prompts = PromptBatch.concatenate([part.prompts for part in parts])
        self.parts = self._parts or PromptParts.split(self.prompts.sampling_keys, 1)
        self.responses = Responses.concatenate([part.responses for part in parts])
        self.old_logprobs = torch.cat([part.old_logprobs for part in parts])
        self.ref_logprobs = torch.cat([part.ref_logprobs for part in parts])
        self.values = torch.cat([part.values for part in parts])
        self.ref_hidden_states = _concatenate_optional([part.ref_hidden_states for part in parts])
        self.final_values = _concatenate_optional([part.final_values for part in parts])
        self.critic_states = _concatenate_optional([part.critic_states for part in parts])
        scores = torch.cat([part.scores for part in parts])
        self.scores = missing_eos_scores(
            scaler.scale(scores) if scaler else scores,
            self.responses.finished,
            mode=config.missing_eos,
            penalty=config.missing_eos_penalty,
        )
        self.kl = kl_estimate(self.old_logprobs, self.ref_logprobs, kind="k1")
        kl_coef = config.kl_coef if config.kl_placement == "reward" else 0.0
        self.rewards = per_token_rewards(
            self.scores, self.kl, self.responses.spans, kl_coef=kl_coef
        )
        self.value_features = None
        if value_function:
            self._add_feature_values(value_function)
        self.uses_critic = value_function is None or value_function.is_useful
        self.advantages = self._advantages(config)
        self.returns = self._returns(config)

    def minibatches(self, size: int, generator: torch.Generator) -> Iterator[Minibatch]:
        """Yield every response once, in minibatches, in a random order of their prompts.

        Responses to one prompt stay together, so that a step runs the prompt once. Each minibatch
        has about as many prompts of every part.

        Args:
            size: responses of a minibatch; the last may be smaller.
            generator: generator of the random order.
        """
        all_responses = Minibatch(
            prompts=self.prompts,
            responses=self.responses,
            old_logprobs=self.old_logprobs,
            old_values=self.values,
            ref_logprobs=self.ref_logprobs,
            advantages=self.advantages,
            returns=self.returns,
            ref_hidden_states=self.ref_hidden_states,
            value_features=self.value_features,
        )
        prompts, prompt_ids = self.prompts.sampling_keys.unique(return_inverse=True)
        ranks = self.parts.stratify(prompts, torch.randperm(len(prompts), generator=generator))
        for rows in ranks[prompt_ids].argsort(stable=True).split(size):
            yield all_responses.select(rows)

    def _add_feature_values(self, value_function: ValueFunction) -> None:
        """Add to the values of the hidden states what the value features say."""
        features = value_function.features(self)
        self.value_features = features.tokens
        tokens, ends = value_function.feature_values(features)
        self.values = self.values + tokens
        if self.final_values is not None:
            self.final_values = torch.where(self.responses.finished, 0, self.final_values + ends)

    def _advantages(self, config: PPOConfig) -> Tensor:
        """Advantages [N] of the configured estimator, or of `reinforce` in place of a critic's."""
        estimator = ADVANTAGE_ESTIMATORS[config.advantage_estimator]
        if estimator.needs_critic and not self.uses_critic:
            estimator = ADVANTAGE_ESTIMATORS["reinforce"]
        advantages = estimator.function(self._estimator_inputs(config))
        # With the KL in the loss, whitening would rescale the advantages but not the KL term.
        whitening = config.whiten_advantages and config.kl_placement == "reward"
        if whitening and not estimator.needs_groups:
            advantages = whiten(advantages, min_std=config.whiten_min_std)
        return advantages

    def _estimator_inputs(self, config: PPOConfig) -> AdvantageInputs:
        spans, alpha = self.responses.spans, config.gae_lambda_alpha
        return AdvantageInputs(
            rewards=self.rewards,
            values=self.values,
            spans=spans,
            groups=self.prompts.sampling_keys,
            final_values=self.final_values,
            gamma=config.gamma,
            gae_lambda=length_adaptive_lambda(spans.lengths, alpha) if alpha else config.gae_lambda,
            eps=config.grpo_eps,
        )

    def _returns(self, config: PPOConfig) -> Tensor:
        """Targets of the critic [N], with their own λ, `gae_lambda_value`."""
        return generalized_advantages(
            self.rewards,
            self.values,
            self.responses.spans,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda_value,
            final_values=self.final_values,
        )[1]


def _concatenate_optional(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Join tensors; one alone is not copied, since it may hold a state of every token."""
    tensors = [part for part in parts if part is not None]
    if len(tensors) == 1:
        return tensors[0]
    return torch.cat(tensors) if tensors else None
