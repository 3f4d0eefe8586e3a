"""The critic, which predicts the expected return V before each response token."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf.config.schema import CriticHead, CriticKind, ModelConfig
from rlhf.models.llava import Llava
from rlhf.models.lora import add_adapter
from rlhf.models.value_head import ValueHead
from rlhf.storage.directories import replaced_directory
from rlhf.tracking.profiler import phase
from rlhf.types import PromptBatch, Responses

CRITIC = "critic"  # name of the critic's adapter


class Critic:
    """Values of response tokens: a float32 head on hidden states and value features.

    The kinds differ in the hidden states that the head reads:

        shared_detached   of the policy; the value loss does not train the policy
        shared            of the policy; the value loss trains the policy too
        adapter           of the policy's base model under the critic's own LoRA
        separate          of a copy of the base model

    All of them see the image. The first two need no forward pass of their own.

    Args:
        kind: which hidden states the head reads.
        llava: the model that computes them; for `adapter` it carries the adapter `critic`.
        head: `linear` or `mlp`, see `ValueHead`.
    """

    def __init__(self, kind: CriticKind, llava: Llava, head: CriticHead = "linear") -> None:
        self.kind, self.llava = kind, llava
        self.head = ValueHead(llava.hidden_size, head).to(llava.device)

    @property
    def has_own_forward(self) -> bool:
        """Whether the critic runs a forward pass besides the policy's."""
        return self.kind in ("adapter", "separate")

    def states(self, hidden_states: Tensor, prompts: PromptBatch, responses: Responses) -> Tensor:
        """Hidden states [N, D] that the head reads, one before each response token (autograd).

        Args:
            hidden_states: [N, D], of the policy, any float dtype.
            prompts: B prompts.
            responses: B responses of N tokens in all, one to each prompt.
        """
        if self.kind == "shared_detached":
            return hidden_states.detach()
        if not self.has_own_forward:
            return hidden_states
        with self.use_adapter():
            return self.llava.response_hidden_states(prompts, responses)

    def values(
        self,
        hidden_states: Tensor,
        prompts: PromptBatch,
        responses: Responses,
        features: Tensor | None = None,
    ) -> Tensor:
        """V of the state before each response token (autograd).

        Args:
            hidden_states: [N, D], of the policy, any float dtype.
            prompts: B prompts.
            responses: B responses of N tokens in all, one to each prompt.
            features: [N, 5] float32, standardized value features; None: all 0.

        Returns:
            [N] float32, reward units.
        """
        values: Tensor = self.head(self.states(hidden_states, prompts, responses), features)
        return values

    @torch.no_grad()
    def final_values(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """V after the last token of each response, without value features (no autograd).

        Args:
            prompts: B prompts.
            responses: B responses, one to each prompt.

        Returns:
            [B] float32, reward units.
        """
        with phase("values"), self.use_adapter():
            values: Tensor = self.head(self.llava.final_hidden_states(prompts, responses))
        return values

    def use_adapter(self) -> AbstractContextManager[None]:
        """Context in which the critic's adapter, if it has one, is active."""
        return self.llava.adapters.use(CRITIC) if self.kind == "adapter" else nullcontext()

    def backbone_parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters below the head that only the critic uses, by name."""
        if CRITIC in self.llava.adapters.names:
            return self.llava.adapters.tensors(CRITIC)
        named = self.llava.model.named_parameters() if self.kind == "separate" else ()
        return {name: value for name, value in named if value.requires_grad}

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters that the critic's learning rate applies to, by name."""
        head = {f"head.{name}": value for name, value in self.head.named_parameters()}
        return {**self.backbone_parameters(), **head}

    def save(self, directory: Path) -> None:
        """Write value_head.safetensors, and the critic's own adapter or model to critic/."""
        self.head.save(directory / "value_head.safetensors")
        has_adapter = CRITIC in self.llava.adapters.names
        if not has_adapter and self.kind != "separate":
            return
        with replaced_directory(directory / "critic") as new:
            if has_adapter:
                self.llava.adapters.save(CRITIC, new, self.llava.base)
            else:
                self.llava.save(new)


def build_lora_critic(
    kind: CriticKind,
    llava: Llava,
    config: ModelConfig,
    init_adapter: Path | None,
    head: CriticHead = "linear",
) -> Critic:
    """Build the critic of a policy that trains a LoRA; its first values are all 0.

    Args:
        kind: see `Critic`.
        llava: the policy's model, before the policy's own adapter is added.
        config: rank, scale and type of the LoRA of the kinds `adapter` and `separate`.
        init_adapter: an adapter that this LoRA starts from; None: a fresh one.
        head: see `Critic`.
    """
    if kind == "separate":
        llava = llava.frozen_copy()
    if kind in ("adapter", "separate"):
        if init_adapter is None:
            add_adapter(llava.adapters, CRITIC, config)
        else:
            llava.adapters.load(CRITIC, init_adapter, trains=True)
    return Critic(kind, llava, head)


def build_full_critic(kind: CriticKind, llava: Llava, head: CriticHead = "linear") -> Critic:
    """Build the critic of a policy trained in full; a `separate` model is trained in full too.

    Args:
        kind: see `Critic`.
        llava: the policy's model, whose language model trains.
        head: see `Critic`.
    """
    if kind == "separate":
        llava = llava.frozen_copy()
        llava.train_language_model()
    return Critic(kind, llava, head)
