"""Interface of scorers, and what reward models share.

A scorer gives responses scores. A reward model is a scorer that can be trained: a base model maps
prompt and response to a vector, and a scalar head maps the vector to the score. `LlavaReward` uses
hidden states of LLaVA, `CaptionReward` those of a text model that reads a caption of the image.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rlhf.data.microbatching import map_microbatches
from rlhf.data.tokenization import TextEncoder
from rlhf.models.lora import Adapters
from rlhf.models.scalar_head import ScalarHead
from rlhf.models.sharding import ShardedModels
from rlhf.parallel.world import ALONE, World
from rlhf.types import PromptBatch, Responses

REWARD = "reward"  # name of the adapter that reward training adds


class Scorer(Protocol):
    """Gives each response a score.

    Attributes:
        name: shown in tables.
        can_fail: whether NaN is allowed and means that a response has no score.
    """

    name: str
    can_fail: bool

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        """Score every response.

        Args:
            prompts: B prompts.
            responses: B responses, one to each prompt.
            max_tokens: most padded tokens of one microbatch, if the scorer runs a model.

        Returns:
            [B] float32 on the CPU.
        """


class RewardModel(ABC):
    """A scorer that can be trained.

    Attributes:
        kind: `llava_head` or `caption_text`, as in `reward.kind`.
        name: shown in tables.
        can_fail: false, every response has a score.
        base: directory or hub id of the base model.
        encoder: encodes the prompts and responses that it scores.
        mean: mean of the raw scores of the training pairs.
        std: standard deviation of the raw scores of the training pairs.
        head: maps the head inputs to the raw score.
        adapters: adapters of the base model.
        adapter: the name among them of the reward model's own, if it has one.
        world: the processes that score together, each a share of the microbatches.
        sharding: the base model, if it is sharded over the processes.
    """

    kind: str
    name = "reward"
    can_fail = False
    base: str
    encoder: TextEncoder
    mean = 0.0
    std = 1.0
    head: ScalarHead
    adapters: Adapters
    adapter = REWARD
    world: World = ALONE
    sharding = ShardedModels()

    @property
    def uses_logprob(self) -> bool:
        """Whether the last input of the head is the log-likelihood of the response."""
        return False

    @abstractmethod
    def head_inputs(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """Compute the inputs of the head for every response (autograd).

        Args:
            prompts: B prompts.
            responses: B responses, one to each prompt.

        Returns:
            [B, D], the hidden state at the last response token; with `uses_logprob` the
            log-likelihood of the response is its last column.
        """

    @abstractmethod
    def fits(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """Find the responses that are short enough, with their prompts, to be scored.

        Args:
            prompts: B prompts.
            responses: B responses, one to each prompt.

        Returns:
            [B] bool.
        """

    @property
    def has_adapter(self) -> bool:
        """Whether the base model runs with an adapter of the reward model."""
        return self.adapter in self.adapters.names

    def raw_scores(self, head_inputs: Tensor) -> Tensor:
        """Scores [B] float32 before normalization, which the preference loss compares (autograd).

        Args:
            head_inputs: [B, D], on any device.
        """
        return self.head(head_inputs.to(self.head.linear.weight.device))  # type: ignore[no-any-return]

    @torch.no_grad()
    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        """(raw score - mean) / std of every response, computed in microbatches.

        Args:
            prompts: B prompts.
            responses: B responses, one to each prompt.
            max_tokens: tokens of one microbatch, as LLaVA encodes them.

        Returns:
            [B] float32 on the CPU.
        """
        with self.sharding.whole():
            inputs = map_microbatches(
                self.head_inputs, prompts, responses, max_tokens, world=self.world
            )
        return (self.raw_scores(inputs).cpu() - self.mean) / self.std

    @abstractmethod
    def backbone(self) -> Any:
        """The base model, a transformers model with `save_pretrained`."""

    @abstractmethod
    def save_backbone(self, directory: Path) -> None:
        """Write the base model so that the transformers classes can load it."""

    @abstractmethod
    def input_fingerprint(self) -> dict[str, str]:
        """Hashes of the input processing; scores are comparable only if all are equal."""

    @abstractmethod
    def weights_fingerprint(self) -> dict[str, str]:
        """Quantization, dtype and hashes of the base model's weights, without adapters."""
