"""One iteration's responses, from scores to shuffled minibatches."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rlhf.config import PPOConfig
from rlhf.functional import (
    generalized_advantages,
    kl_estimate,
    missing_eos_scores,
    shape_rewards,
    whiten,
)
from rlhf.types import Minibatch, PromptBatch, Responses, Rollout


class RolloutBuffer:
    """Rollouts of one iteration: append them, `finish`, then draw minibatches.

    All per-token quantities are flat [N] float32 on the CPU, responses end to end, no padding.
    """

    def __init__(self) -> None:
        self._rollouts: list[Rollout] = []

    def append(self, rollout: Rollout) -> None:
        """Add a rollout; its B responses follow those already here."""
        self._rollouts.append(rollout)

    def finish(self, config: PPOConfig) -> None:
        """Rewards, advantages and value targets of every token.

        rₜ = -kl_coef·(log π - log π_ref), plus the score at the last token of the response.
        """
        parts = self._rollouts
        self.prompts = PromptBatch.concatenate([part.prompts for part in parts])
        self.responses = Responses.concatenate([part.responses for part in parts])
        self.old_logprobs = torch.cat([part.old_logprobs for part in parts])
        self.values = torch.cat([part.values for part in parts])
        ref_logprobs = torch.cat([part.ref_logprobs for part in parts])
        scores = torch.cat([part.scores for part in parts])
        spans = self.responses.spans
        self.scores = missing_eos_scores(
            scores,
            self.responses.finished,
            mode=config.missing_eos,
            penalty=config.missing_eos_penalty,
        )
        self.kl = kl_estimate(self.old_logprobs, ref_logprobs, kind="k1")
        self.rewards = shape_rewards(self.scores, self.kl, spans, kl_coef=config.kl_coef)
        self.advantages = self._estimate(config.gamma, config.gae_lambda)[0]
        self.returns = self._estimate(config.gamma, config.gae_lambda_value)[1]
        if config.whiten_advantages:
            self.advantages = whiten(self.advantages, floor=config.whiten_floor)

    def minibatches(self, size: int, generator: torch.Generator) -> Iterator[Minibatch]:
        """Every response once, in a fresh random order, `size` responses at a time."""
        whole = Minibatch(
            self.prompts,
            self.responses,
            self.old_logprobs,
            self.values,
            self.advantages,
            self.returns,
        )
        order = torch.randperm(len(self.responses), generator=generator)
        for rows in order.split(size):
            yield whole.select(rows)

    def _estimate(self, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
        return generalized_advantages(
            self.rewards, self.values, self.responses.spans, gamma=gamma, gae_lambda=gae_lambda
        )
