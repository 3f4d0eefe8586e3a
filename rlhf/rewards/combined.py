"""Weighted sums of several scorers, each of which keeps a curve of its own."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlhf.rewards.base import Scorer
from rlhf.types import PromptBatch, Responses


class CombinedScorer:
    """A weighted sum of scorers: Σ wᵢ·scoreᵢ.

    A response that one part cannot score has no score.

    Args:
        parts: the scorers, by the names of their curves.
        weights: wᵢ, by the same names.

    Attributes:
        name: weights and names, shown in tables.
        can_fail: whether a part can fail.
    """

    def __init__(self, parts: Mapping[str, Scorer], weights: Mapping[str, float]) -> None:
        self.parts, self.weights = dict(parts), dict(weights)
        self.name = " + ".join(f"{weight:g}·{name}" for name, weight in self.weights.items())
        self.can_fail = any(part.can_fail for part in self.parts.values())

    def part_scores(
        self, prompts: PromptBatch, responses: Responses, *, max_tokens: int
    ) -> dict[str, Tensor]:
        """Score every response by each part.

        Args:
            prompts: B prompts.
            responses: B responses, one to each prompt.
            max_tokens: most padded tokens of one microbatch of a part that runs a model.

        Returns:
            [B] float32 on the CPU of each part, before its weight.
        """
        return {
            name: part.scores(prompts, responses, max_tokens=max_tokens)
            for name, part in self.parts.items()
        }

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        """Score every response by the weighted sum: [B] float32 on the CPU.

        Args:
            prompts: B prompts.
            responses: B responses, one to each prompt.
            max_tokens: most padded tokens of one microbatch of a part that runs a model.
        """
        return self.weighted_sum(self.part_scores(prompts, responses, max_tokens=max_tokens))

    def weighted_sum(self, part_scores: Mapping[str, Tensor]) -> Tensor:
        """Add the scores [B] of the parts, each times its weight: [B] float32."""
        weighted = [weight * part_scores[name] for name, weight in self.weights.items()]
        return torch.stack(weighted).sum(0)


def scores_and_parts(
    reward: Scorer, prompts: PromptBatch, responses: Responses, *, max_tokens: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Score every response, and by each part of a combined scorer, which runs once.

    Args:
        reward: the scorer.
        prompts: B prompts.
        responses: B responses, one to each prompt.
        max_tokens: most padded tokens of one microbatch.

    Returns:
        [B] float32; and the same of each part by name, empty if `reward` has no parts.
    """
    if not isinstance(reward, CombinedScorer):
        return reward.scores(prompts, responses, max_tokens=max_tokens), {}
    parts = reward.part_scores(prompts, responses, max_tokens=max_tokens)
    return reward.weighted_sum(parts), parts


def reward_parts(*scorers: Scorer) -> Sequence[Scorer]:
    """List the scorers that are no sums: of a combined scorer those that it adds up."""
    parts = (x.parts.values() if isinstance(x, CombinedScorer) else [x] for x in scorers)
    return [part for listed in parts for part in listed]
