"""Raw scores of preference pairs, with cached head inputs if the backbone is frozen."""

import torch
from torch import Tensor

from rlhf.data.microbatching import map_microbatches
from rlhf.rewards.base import RewardModel
from rlhf.types import PreferenceBatch


class PairFeatures:
    """Raw scores of preference pairs; head inputs are computed once if the backbone is frozen.

    Args:
        model: the reward model.
        batch: n pairs.
        max_tokens: most tokens of one forward pass without autograd.
    """

    def __init__(self, model: RewardModel, batch: PreferenceBatch, max_tokens: int) -> None:
        self.model, self.batch, self.max_tokens = model, batch, max_tokens
        frozen = not any(value.requires_grad for value in model.backbone().parameters())
        self._cached: Tensor | None = None
        if frozen and len(batch):
            self._cached = self.head_inputs(torch.arange(len(batch)))

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def labels(self) -> Tensor:
        """[n] float32 on the head's device: 1 where chosen is preferred, 0.5 for a tie."""
        return self.batch.labels.to(self.model.head.linear.weight.device)

    @torch.no_grad()
    def head_inputs(self, rows: Tensor) -> Tensor:
        """[2K, D] head inputs of K chosen, then of their K rejected responses; no autograd.

        Args:
            rows: [K] int64, indices of pairs.
        """
        if self._cached is not None:
            return self._cached[torch.cat([rows, rows + len(self)])]
        prompts, responses = self.batch.select(rows).stacked()
        return map_microbatches(self.model.head_inputs, prompts, responses, self.max_tokens)

    def raw_scores(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Raw scores of chosen and rejected responses, [K] float32 each, with autograd.

        Args:
            rows: [K] int64, indices of pairs.
        """
        if self._cached is None:
            inputs = self.model.head_inputs(*self.batch.select(rows).stacked())
        else:
            inputs = self.head_inputs(rows)
        chosen, rejected = self.model.raw_scores(inputs).chunk(2)
        return chosen, rejected

    def all_raw_scores(self) -> tuple[Tensor, Tensor]:
        """Raw scores of all chosen, and of all rejected responses, [n] float32 each."""
        inputs = self.head_inputs(torch.arange(len(self)))
        chosen, rejected = self.model.raw_scores(inputs).chunk(2)
        return chosen, rejected
