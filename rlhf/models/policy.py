"""The policy with its critic and its frozen reference, which may share one base model."""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from rlhf.config.schema import Config, CriticHead, CriticKind, ModelConfig, PPOConfig
from rlhf.errors import UsageError
from rlhf.kernels import token_kl, token_logprobs
from rlhf.models.critic import Critic, build_full_critic, build_lora_critic
from rlhf.models.llava import Llava
from rlhf.models.lora import add_adapter, refuse_full_training
from rlhf.tracking.profiler import phase
from rlhf.types import PolicyOutputs, PromptBatch, Responses

POLICY, REFERENCE = "policy", "reference"  # names of their adapters


class Policy:
    """Log-probabilities, entropies and values of response tokens, by policy and reference.

    Args:
        llava: the model, with the adapter `policy` if a LoRA is trained.
        reference: the frozen initial model; `llava` itself where switching adapters gives it.
        temperature: of sampling; log-probabilities refer to the distribution at this temperature.
        critic: predicts the values; None: a head on the policy's detached hidden states.
    """

    def __init__(
        self, llava: Llava, reference: Llava, *, temperature: float, critic: Critic | None = None
    ) -> None:
        self.llava, self.reference, self.temperature = llava, reference, temperature
        self.critic = critic or Critic("shared_detached", llava)

    @classmethod
    def from_model(
        cls,
        model: Llava,
        config: PPOConfig | None = None,
        training: ModelConfig | None = None,
        *,
        temperature: float = 1.0,
        seed: int = 0,
        critic_adapter: Path | None = None,
    ) -> Self:
        """Make a model trainable, with a critic and a frozen reference.

        A model with an adapter goes on training it, and a frozen copy of it is the reference.

        Args:
            model: the model of `rlhf.load_model`; changed in place.
            config: its `critic` is the kind of the critic.
            training: what `train` says trains: a LoRA, or the layers of the language model;
                `gradient_checkpointing=True` saves memory, auto is off here.
            temperature: of sampling.
            seed: of the adapter's first weights.
            critic_adapter: with `critic_init=reward`: the reward model's adapter, a directory.

        Raises:
            UsageError: an option is out of range, or the model cannot be trained in this way.
        """
        from rlhf.config.validation import check_config  # the rest does without its msgspec

        checked = check_config(Config(ppo=config or PPOConfig(), model=training or ModelConfig()))
        if (checked.ppo.critic_init == "reward") != (critic_adapter is not None):
            fix = "set critic_init=reward and name a critic_adapter, or neither"
            raise UsageError("the critic's start is not clear", "ppo.critic_init", fix)
        model.gradient_checkpointing = checked.model.gradient_checkpointing is True
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            policy = build_policy(
                model,
                checked.model,
                temperature=temperature,
                init_adapter=model.adapter_dir,
                critic=checked.ppo.critic,
                critic_head=checked.ppo.critic_head,
                critic_init=critic_adapter,
            )
        return cls(model, policy.reference, temperature=temperature, critic=policy.critic)

    @property
    def base_is_frozen(self) -> bool:
        """Whether training changes an adapter only, so that others may share the base model."""
        return POLICY in self.llava.adapters.names

    def evaluate(
        self,
        prompts: PromptBatch,
        responses: Responses,
        hidden_states: Tensor | None = None,
        *,
        return_critic_states: bool = False,
    ) -> PolicyOutputs:
        """Log-probability, entropy and value of every response token (autograd).

        The values are the part that the hidden states give, see `ValueHead`.

        Args:
            prompts: B prompts.
            responses: B responses of N tokens in all, one to each prompt.
            hidden_states: [N, D], of the policy, where they are known; None: they are computed.
            return_critic_states: also return what a closed-form fit of the critic reads.

        Returns:
            outputs of [N] float32 each, without hidden states.
        """
        outputs = self.policy_outputs(prompts, responses, hidden_states=hidden_states)
        assert outputs.hidden_states is not None
        with phase("values"):
            head = self.critic.head
            states = self.critic.states(outputs.hidden_states, prompts, responses)
            values = head(states)
            inputs = head.fit_inputs(states) if return_critic_states else None
        return replace(outputs, values=values, hidden_states=None, critic_states=inputs)

    def policy_outputs(
        self,
        prompts: PromptBatch,
        responses: Responses,
        ref_hidden_states: Tensor | None = None,
        hidden_states: Tensor | None = None,
    ) -> PolicyOutputs:
        """Log-probability, entropy and hidden state of every response token (autograd).

        Args:
            prompts: B prompts.
            responses: B responses of N tokens in all, one to each prompt.
            ref_hidden_states: [N, D], of the reference, to compute the exact KL; None: no KL.
            hidden_states: [N, D], of the policy, where they are known; None: they are computed.

        Returns:
            outputs of [N] float32 each, with hidden states [N, D]; the values are zeros.
        """
        if hidden_states is None:
            hidden_states = self.llava.response_hidden_states(prompts, responses)
        outputs = self._token_outputs(self.llava, hidden_states, responses)
        if ref_hidden_states is None:
            return outputs
        kl = token_kl(
            hidden_states,
            ref_hidden_states.to(hidden_states.device),
            self.llava.output_weight,
            ref_weight=self.reference.output_weight,
            temperature=self.temperature,
            banned_ids=self.llava.banned_ids,
        )
        return replace(outputs, kl=kl)

    @torch.no_grad()
    def reference_outputs(
        self, prompts: PromptBatch, responses: Responses, *, return_hidden_states: bool = False
    ) -> PolicyOutputs:
        """Log-probability and entropy of every response token under the reference (no autograd).

        Args:
            prompts: B prompts.
            responses: B responses of N tokens in all, one to each prompt.
            return_hidden_states: return the reference's hidden states [N, D] too.

        Returns:
            outputs of [N] float32 each; the values are zeros.
        """
        with self.use_reference():
            hidden_states = self.reference.response_hidden_states(prompts, responses)
        outputs = self._token_outputs(self.reference, hidden_states, responses)
        return outputs if return_hidden_states else replace(outputs, hidden_states=None)

    def use_reference(self) -> AbstractContextManager[None]:
        """Context in which `reference` uses the adapter, or none, that training started from."""
        adapters = self.reference.adapters
        return adapters.use(REFERENCE if REFERENCE in adapters.names else None)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The policy's trainable parameters by name, without the critic's."""
        if POLICY in self.llava.adapters.names:
            return self.llava.adapters.tensors(POLICY)
        named = self.llava.model.named_parameters()
        return {name: value for name, value in named if value.requires_grad}

    def critic_parameters(self) -> dict[str, nn.Parameter]:
        """The critic's trainable parameters by name."""
        return self.critic.trainable_parameters()

    def frozen_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Names and values of all parameters that training must not change.

        They belong to the base models, the reference's adapter and the reward model's adapter.
        """
        policy, critic = self.trainable_parameters(), self.critic_parameters()  # may share names
        trained = {id(value) for value in (*policy.values(), *critic.values())}
        return [
            (f"{role}.{name}", value)
            for role, model in self.base_models().items()
            for name, value in model.named_parameters()
            if id(value) not in trained
        ]

    def base_models(self) -> dict[str, nn.Module]:
        """Distinct models in memory, each under the name of the first role that uses it."""
        roles = {"policy": self.llava, "reference": self.reference, "critic": self.critic.llava}
        models: dict[str, nn.Module] = {}
        for role, llava in roles.items():
            if all(llava.model is not model for model in models.values()):
                models[role] = llava.model
        return models

    def _token_outputs(
        self, llava: Llava, hidden_states: Tensor, responses: Responses
    ) -> PolicyOutputs:
        logprobs, entropy = token_logprobs(
            hidden_states,
            llava.output_weight,
            responses.tokens,
            temperature=self.temperature,
            banned_ids=llava.banned_ids,
        )
        return PolicyOutputs(logprobs, entropy, torch.zeros_like(logprobs.detach()), hidden_states)


def build_policy(
    llava: Llava,
    config: ModelConfig,
    *,
    temperature: float,
    init_adapter: Path | None = None,
    critic: CriticKind = "shared_detached",
    critic_head: CriticHead = "linear",
    critic_init: Path | None = None,
) -> Policy:
    """Build the policy of a run with its critic and its frozen reference.

    The trained parameters are float32.

    Args:
        llava: the model to train.
        config: `train=lora` trains an adapter, `train=full` the layers of the language model.
        temperature: of sampling.
        init_adapter: an adapter to start from; a frozen second copy of it is the reference.
            None: the adapter is fresh, and the reference is the model without adapter.
        critic: kind of the critic, see `Critic`.
        critic_head: its head, see `ValueHead`.
        critic_init: an adapter that the critic's adapter starts from; None: `init_adapter`.

    Raises:
        UsageError: full training with an adapter of any role.
    """
    if config.train == "full":
        _check_no_adapter(init_adapter, critic, critic_init)
        llava.train_language_model()
        reference = llava.frozen_copy()
        full_critic = build_full_critic(critic, llava, critic_head)
        return Policy(llava, reference, temperature=temperature, critic=full_critic)
    critic_adapter = critic_init or init_adapter
    lora_critic = build_lora_critic(critic, llava, config, critic_adapter, critic_head)
    if init_adapter is None:
        add_adapter(llava.adapters, POLICY, config)
    else:
        llava.adapters.load(REFERENCE, init_adapter, trains=False)
        train_adapter(llava, init_adapter)
    return Policy(llava, llava, temperature=temperature, critic=lora_critic)


def train_adapter(llava: Llava, directory: Path) -> None:
    """Make the adapter of a directory, which may be loaded, the policy's trainable adapter."""
    if llava.adapter_dir == directory:
        llava.adapters.set_trainable(POLICY)
    else:
        llava.adapters.load(POLICY, directory, trains=True)


def _check_no_adapter(
    init_adapter: Path | None, critic: CriticKind, critic_init: Path | None
) -> None:
    """Refuse adapters of any role in full training."""
    refuse_full_training(init_adapter, "model.train=full")
    if critic == "adapter" or critic_init is not None:
        raise UsageError(
            "an adapter of the critic needs a frozen base model",
            "model.train=full",
            "use ppo.critic=shared_detached, shared or separate, or model.train=lora",
        )
