"""The critic: what return to expect after each token, and what that is read from."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch import Tensor, nn

from rlhf.config.schema import CriticKind, ModelConfig
from rlhf.models.llava import Llava
from rlhf.models.lora import add_adapter
from rlhf.models.scalar_head import ScalarHead
from rlhf.types import PromptBatch, Responses

CRITIC = "critic"


class Critic:
    """V of the state before each response token, by a float32 head on hidden states.

        shared_detached   the policy's states; the value loss does not reach the trunk
        shared            the policy's states; the value loss trains policy and head
        adapter           the states of the policy's trunk under a LoRA of the critic's own
        separate          the states of a copy of the trunk

    All of them see the image. The first two cost no forward of their own.

    Args:
        kind: which of these.
        llava: the trunk it reads; for `adapter` it carries the adapter `critic`.
    """

    def __init__(self, kind: CriticKind, llava: Llava) -> None:
        self.kind, self.llava = kind, llava
        self.head = ScalarHead(llava.hidden_size).to(llava.device)

    @property
    def has_own_forward(self) -> bool:
        """Whether it reads states of its own, by a forward beside the policy's."""
        return self.kind in ("adapter", "separate")

    def values(self, hidden: Tensor, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[N] float32 (autograd); `hidden` [N, D] are the policy's states."""
        if self.kind == "shared_detached":
            hidden = hidden.detach()
        elif self.has_own_forward:
            with self.role():
                hidden = self.llava.response_hidden(prompts, responses)
        values: Tensor = self.head(hidden)
        return values

    def final_values(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[B] float32, V of the state after the last token of each response."""
        with self.role():
            values: Tensor = self.head(self.llava.final_hidden(prompts, responses))
        return values

    def role(self) -> AbstractContextManager[None]:
        """Inside the block the trunk gives the states that the critic reads."""
        return self.llava.adapters.use(CRITIC) if self.kind == "adapter" else nullcontext()

    def backbone_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the trunk that are the critic's alone, by name."""
        if CRITIC in self.llava.adapters.names:
            return self.llava.adapters.tensors(CRITIC)
        own = self.llava.model.named_parameters() if self.kind == "separate" else ()
        return {name: value for name, value in own if value.requires_grad}

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """All that the critic's learning rate moves, by name."""
        head = {f"head.{name}": value for name, value in self.head.named_parameters()}
        return {**self.backbone_parameters(), **head}

    def save(self, directory: Path) -> None:
        """Write value_head.safetensors, and what the critic has of a trunk in critic/."""
        self.head.save(directory / "value_head.safetensors")
        if CRITIC in self.llava.adapters.names:
            self.llava.adapters.save(CRITIC, directory / "critic", self.llava.base)
        elif self.kind == "separate":
            self.llava.save(directory / "critic")


def build_critic(
    kind: CriticKind, llava: Llava, config: ModelConfig, init_adapter: Path | None
) -> Critic:
    """A critic that expects 0 everywhere.

    Args:
        kind: see `Critic`.
        llava: the policy's trunk, before the policy's own adapter is on it.
        config: of the LoRA, where `adapter` or `separate` begin from none.
        start: an adapter that these two begin from.
    """
    if kind == "separate":
        llava = llava.frozen_copy()
    if kind in ("adapter", "separate"):
        if init_adapter is None:
            add_adapter(llava.adapters, CRITIC, config)
        else:
            llava.adapters.load(CRITIC, init_adapter, trains=True)
    return Critic(kind, llava)


def full_critic(kind: CriticKind, llava: Llava) -> Critic:
    """The same beside a policy that is trained in full: a copy is trained in full too."""
    if kind == "separate":
        llava = llava.frozen_copy()
        llava.train_language_model()
    return Critic(kind, llava)
