"""Raw scores of preference pairs, with cached head inputs if the backbone is frozen."""

import torch
from torch import Tensor

from rlhf.data.microbatching import MicrobatchOutputs, map_own_microbatches, pack_to_budget
from rlhf.rewards.base import RewardModel
from rlhf.training.oom_retry import OOMRetry
from rlhf.types import PreferenceBatch


class PairFeatures:
    """Raw scores of preference pairs; head inputs are computed once if the backbone is frozen.

    Args:
        model: the reward model.
        batch: n pairs.
        max_tokens: most tokens of one forward pass without autograd.
        oom_retry: splits a forward pass after an out-of-memory error; knows the processes.
    """

    def __init__(
        self, model: RewardModel, batch: PreferenceBatch, max_tokens: int, oom_retry: OOMRetry
    ) -> None:
        self.model, self.batch = model, batch
        self.max_tokens, self.oom_retry = max_tokens, oom_retry
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
        world = self.oom_retry.world

        def own_head_inputs() -> MicrobatchOutputs[Tensor]:
            function, limit = self.model.head_inputs, self.oom_retry.split(self.max_tokens)
            return map_own_microbatches(function, prompts, responses, limit, world=world)

        with self.model.sharding.whole():
            return self.oom_retry.run("forward pass", own_head_inputs).gather(world)

    def microbatches(self, rows: Tensor, max_tokens: int) -> list[Tensor]:
        """Split pairs into microbatches for `raw_scores`; one, if the head inputs are cached.

        Args:
            rows: [K] int64, indices of pairs.
            max_tokens: tokens of one microbatch, in which the prompt of a pair counts once; one
                with a single pair may have more.

        Returns:
            The indices [k] int64 of each microbatch, pairs with the same image together.
        """
        if self._cached is not None or not len(rows):
            return [rows] if len(rows) else []
        pairs = self.batch.select(rows)
        spans = pairs.prompts.spans, pairs.chosen.spans, pairs.rejected.spans
        sizes = torch.stack([span.lengths for span in spans]).sum(0).tolist()
        return [rows[group] for group in pack_to_budget(sizes, max_tokens, pairs.prompts.images)]

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
