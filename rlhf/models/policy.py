"""The policy, its critic and its frozen reference: roles of one trunk."""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf.config.schema import CriticKind, ModelConfig
from rlhf.errors import UsageError
from rlhf.kernels import token_kl, token_logprobs
from rlhf.models.critic import Critic, build_critic, full_critic
from rlhf.models.llava import Llava
from rlhf.models.lora import add_adapter
from rlhf.models.scalar_head import ScalarHead
from rlhf.tracking.profiler import phase
from rlhf.types import PolicyOutputs, PromptBatch, Responses

POLICY, REFERENCE = "policy", "reference"


class Policy:
    """Log-probabilities, entropy and values of response tokens, and the reference's.

    Args:
        llava: the trunk, with the adapter `policy` if LoRA is trained.
        reference: the frozen starting model; `llava` itself when adapters tell them apart.
        temperature: of sampling; all log-probabilities are of the distribution sampled from.
        critic: gives the values; by default a head on the policy's states, which it leaves alone.
    """

    def __init__(
        self, llava: Llava, reference: Llava, *, temperature: float, critic: Critic | None = None
    ) -> None:
        self.llava, self.reference, self.temperature = llava, reference, temperature
        self.critic = critic or Critic("shared_detached", llava)

    @property
    def value_head(self) -> ScalarHead:
        return self.critic.head

    def evaluate(
        self,
        prompts: PromptBatch,
        responses: Responses,
        ref_hidden: Tensor | None = None,
        hidden_states: Tensor | None = None,
    ) -> PolicyOutputs:
        """Log-probability, entropy and value of every response token (autograd).

        Args:
            prompts, responses: B of each.
            ref_hidden: [N, D], the reference's states; given them, the exact KL to it as well.
            states: [N, D], the policy's own states where they are known: no forward then.
        """
        outputs = self.policy_outputs(prompts, responses, ref_hidden, hidden_states)
        return replace(outputs, values=self.values(outputs, prompts, responses), hidden_states=None)

    def policy_outputs(
        self,
        prompts: PromptBatch,
        responses: Responses,
        ref_hidden: Tensor | None = None,
        hidden_states: Tensor | None = None,
    ) -> PolicyOutputs:
        """The same with the states, but without values (autograd)."""
        if hidden_states is None:
            hidden_states = self.llava.response_hidden(prompts, responses)
        scores = self._token_outputs(self.llava, hidden_states, responses)
        if ref_hidden is None:
            return scores
        kl = token_kl(
            hidden_states,
            ref_hidden.to(hidden_states.device),
            self.llava.output_weight,
            ref_weight=self.reference.output_weight,
            temperature=self.temperature,
            banned_ids=self.llava.banned_ids,
        )
        return replace(scores, kl=kl)

    def values(self, outputs: PolicyOutputs, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[N] float32, V of the states before these tokens (autograd); `scores` of the policy."""
        assert outputs.hidden_states is not None
        with phase("values"):
            return self.critic.values(outputs.hidden_states, prompts, responses)

    @torch.no_grad()
    def reference_outputs(
        self, prompts: PromptBatch, responses: Responses, *, keep_hidden: bool = False
    ) -> PolicyOutputs:
        """The same under the frozen reference (no autograd), without values."""
        with self.reference_role():
            states = self.reference.response_hidden(prompts, responses)
        outputs = self._token_outputs(self.reference, states, responses)
        return outputs if keep_hidden else replace(outputs, hidden_states=None)

    @torch.no_grad()
    def final_values(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[B] float32, V of the state after the last token of each response (no autograd)."""
        with phase("values"):
            return self.critic.final_values(prompts, responses)

    def reference_role(self) -> AbstractContextManager[None]:
        """Inside the block `reference` runs as the model that training started from."""
        adapters = self.reference.adapters
        return adapters.use(REFERENCE if REFERENCE in adapters.names else None)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The policy's own trainable parameters by name; none of the critic's is among them."""
        if POLICY in self.llava.adapters.names:
            return self.llava.adapters.tensors(POLICY)
        named = self.llava.model.named_parameters()
        return {name: value for name, value in named if value.requires_grad}

    def critic_parameters(self) -> dict[str, nn.Parameter]:
        """The critic's own trainable parameters by name."""
        return self.critic.trainable_parameters()

    def frozen_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Everything that must not move: trunks, reference and foreign adapters, by name."""
        trained = {
            id(x)
            for own in (self.trainable_parameters(), self.critic_parameters())
            for x in own.values()
        }
        return [
            (f"{part}.{name}", value)
            for part, model in self.base_models().items()
            for name, value in model.named_parameters()
            if id(value) not in trained
        ]

    def base_models(self) -> dict[str, nn.Module]:
        """The models in memory by the first role that needs each."""
        roles = {"policy": self.llava, "reference": self.reference, "critic": self.critic.llava}
        found: dict[str, nn.Module] = {}
        for role, llava in roles.items():
            if all(llava.model is not model for model in found.values()):
                found[role] = llava.model
        return found

    def _token_outputs(self, llava: Llava, hidden: Tensor, responses: Responses) -> PolicyOutputs:
        logprobs, entropy = token_logprobs(
            hidden,
            llava.output_weight,
            responses.tokens.to(hidden.device),
            temperature=self.temperature,
            banned_ids=llava.banned_ids,
        )
        return PolicyOutputs(logprobs, entropy, torch.zeros_like(logprobs.detach()), hidden)


def build_policy(
    llava: Llava,
    config: ModelConfig,
    *,
    temperature: float,
    init_adapter: Path | None = None,
    critic: CriticKind = "shared_detached",
    critic_init: Path | None = None,
) -> Policy:
    """The policy of a run, its critic and its frozen reference. What trains is float32.

    Args:
        llava: the trunk.
        config: `lora` trains an adapter, `full` the layers of the language model.
        temperature: of sampling.
        start: an adapter to begin from. The reference is a frozen second copy of it; without one
            the adapter is fresh and the reference is the bare trunk.
        critic: what the values are read from, see `Critic`.
        critic_init: the adapter that the critic's own begins from; None: `start`.

    Raises:
        UsageError: full training with an adapter of any role.
    """
    if config.train == "full":
        if init_adapter is not None:
            raise UsageError(
                "full training cannot begin from an adapter",
                "model.train=full",
                "use model.train=lora, or a model.path with merged weights",
            )
        if critic == "adapter" or critic_init is not None:
            raise UsageError(
                "the adapter of a critic needs a trunk that stays",
                "model.train=full",
                "use ppo.critic=shared_detached, shared or separate, or model.train=lora",
            )
        llava.train_language_model()
        reference = llava.frozen_copy()
        own = full_critic(critic, llava)
        return Policy(llava, reference, temperature=temperature, critic=own)
    own = build_critic(critic, llava, config, critic_init or init_adapter)
    if init_adapter is None:
        add_adapter(llava.adapters, POLICY, config)
    else:
        llava.adapters.load(REFERENCE, init_adapter, trains=False)
        llava.adapters.load(POLICY, init_adapter, trains=True)
    return Policy(llava, llava, temperature=temperature, critic=own)
