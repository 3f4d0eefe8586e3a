"""Critics of every kind: what they read, what their loss trains, and saving them."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from rlhf.config.schema import CriticKind, LoraType, ModelConfig, PPOConfig
from rlhf.errors import UsageError
from rlhf.models.critic import CRITIC
from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY, Policy, build_policy
from rlhf.ppo.updater import Updater
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.storage.hashing import hash_tensors
from tests.ppo.test_trainer import PPO, trainer
from tests.support import tiny_models

KINDS: tuple[CriticKind, ...] = get_args(CriticKind)
FULL_KINDS: tuple[CriticKind, ...] = ("shared_detached", "shared", "separate")
CASES = [*(("lora", kind) for kind in KINDS), *(("full", kind) for kind in FULL_KINDS)]


def built_policy(
    tiny: Path,
    kind: CriticKind,
    train: Any = "lora",
    init_adapter: Path | None = None,
    lora_type: LoraType = "lora",
) -> Policy:
    """A policy whose critic predicts values other than 0."""
    config = ModelConfig(train=train, lora_rank=4, lora_type=lora_type)
    policy = build_policy(
        tiny_models.load(tiny), config, temperature=1.0, critic=kind, init_adapter=init_adapter
    )
    torch.nn.init.normal_(policy.critic.head.states.linear.weight)
    return policy


def shake(parameters: dict[str, torch.nn.Parameter]) -> None:
    with torch.no_grad():
        for value in parameters.values():
            value.add_(0.05 * torch.randn_like(value))


@pytest.mark.parametrize(("train", "kind"), CASES)
def test_every_critic_sees_the_image_and_predicts_0_at_first(
    tiny: Path, train: str, kind: CriticKind
) -> None:
    policy = built_policy(tiny, kind, train)
    prompts, responses = (
        tiny_models.prompts_of(policy.llava, tiny, 2),
        tiny_models.responses_of(policy.llava),
    )
    responses = responses.select(torch.tensor([0, 2]))
    swapped = replace(prompts, images=prompts.images[::-1])
    with torch.no_grad():
        values, swapped_values = (
            policy.evaluate(batch, responses).values for batch in (prompts, swapped)
        )
        final, swapped_final = (
            policy.critic.final_values(batch, responses) for batch in (prompts, swapped)
        )
        torch.nn.init.zeros_(policy.critic.head.states.linear.weight)
        assert not policy.evaluate(prompts, responses).values.any()
    assert float((values - swapped_values).abs().max()) > 1e-3
    assert float((final - swapped_final).abs().max()) > 1e-3


@pytest.mark.parametrize(("train", "kind"), CASES)
def test_the_value_loss_reaches_the_critic_and_the_policy_only_where_shared(
    tiny: Path, train: Any, kind: CriticKind
) -> None:
    policy = built_policy(tiny, kind, train)
    shake(policy.critic.backbone_parameters())
    prompts, responses = (
        tiny_models.prompts_of(policy.llava, tiny),
        tiny_models.responses_of(policy.llava),
    )
    hidden_states = policy.policy_outputs(prompts, responses).hidden_states
    assert hidden_states is not None
    features = torch.ones(responses.spans.num_tokens, 5)
    values = policy.critic.values(hidden_states, prompts, responses, features)
    values.square().sum().backward()
    with_gradient = {
        v.grad is not None and bool(v.grad.any()) for v in policy.trainable_parameters().values()
    }
    assert (True in with_gradient) == (kind == "shared")
    grads = [value.grad for value in policy.critic_parameters().values()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    assert any(grad is not None and bool(grad.any()) for grad in grads)


@pytest.mark.parametrize(("train", "kind"), CASES)
def test_updating_the_critic_changes_no_other_role(
    tiny: Path, train: str, kind: CriticKind
) -> None:
    policy = built_policy(tiny, kind, train)
    prompts, responses = (
        tiny_models.prompts_of(policy.llava, tiny),
        tiny_models.responses_of(policy.llava),
    )

    def role_outputs() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            outputs = policy.evaluate(prompts, responses)
            reference = policy.reference_outputs(prompts, responses)
            return outputs.logprobs, reference.logprobs, outputs.values

    before, frozen = role_outputs(), hash_tensors(policy.frozen_parameters())
    shake(policy.critic_parameters())
    after_critic_update = role_outputs()
    assert torch.equal(before[0], after_critic_update[0]) and torch.equal(
        before[1], after_critic_update[1]
    )
    assert float((before[2] - after_critic_update[2]).abs().max()) > 1e-3
    assert hash_tensors(policy.frozen_parameters()) == frozen
    values = after_critic_update[2]
    shake(policy.trainable_parameters())
    after_policy_update = role_outputs()
    assert torch.equal(after_policy_update[1], before[1]) and not torch.equal(
        after_policy_update[0], before[0]
    )
    assert torch.equal(after_policy_update[2], values) == (not kind.startswith("shared"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_with_an_adapter_starts_from_the_initial_one(
    tiny: Path, tmp_path: Path, kind: CriticKind
) -> None:
    first = built_policy(tiny, "shared_detached")
    shake(first.trainable_parameters())
    first.llava.adapters.save(POLICY, tmp_path / "adapter", first.llava.base)
    policy = built_policy(tiny, kind, init_adapter=tmp_path / "adapter")
    policy.critic.head.load_state_dict(first.critic.head.state_dict())
    prompts, responses = (
        tiny_models.prompts_of(policy.llava, tiny),
        tiny_models.responses_of(policy.llava),
    )
    with torch.no_grad():
        expected = first.evaluate(prompts, responses)
        loaded = policy.evaluate(prompts, responses)
    torch.testing.assert_close(loaded.values, expected.values)
    torch.testing.assert_close(loaded.logprobs, expected.logprobs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_has_the_gradients_of_the_joint_loss(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, kind: CriticKind
) -> None:
    """A critic with a forward of its own runs after the policy's backward, in every microbatch."""
    policy = built_policy(tiny, kind)
    policy.llava.model.double()
    policy.critic.llava.model.double()
    batch = tiny_models.minibatch_of(policy, tiny)
    config = PPOConfig(
        lr=1e-30, max_grad_norm=1e9, microbatch_tokens=1, critic=kind, critic_fit="gradient"
    )
    updater = Updater(config, policy, steps=1)
    named, values, policy_has_gradient = (
        policy.trainable_parameters() | policy.critic_parameters(),
        policy.critic.values,
        [],
    )

    def recording(*args: Any) -> torch.Tensor:
        grads = [value.grad for value in policy.trainable_parameters().values()]
        policy_has_gradient.append(any(grad is not None and bool(grad.any()) for grad in grads))
        return values(*args)

    monkeypatch.setattr(policy.critic, "values", recording)
    updater.step(batch, train_policy=True)
    step_grads = {name: value.grad for name, value in named.items()}
    assert policy_has_gradient == [kind in ("adapter", "separate"), True, True, True]
    outputs = policy.evaluate(batch.prompts, batch.responses)
    gain = (batch.advantages * (outputs.logprobs - batch.old_logprobs).exp()).mean()
    assert batch.value_features is not None
    all_values = outputs.values + policy.critic.head.feature_values(batch.value_features)
    error = 0.5 * (all_values - batch.returns).square().mean()
    loss = updater.config.vf_coef * error - gain
    for name, value in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
        torch.testing.assert_close(step_grads[name], value, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_warmup_keeps_no_graph_of_the_policy(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, kind: CriticKind
) -> None:
    policy = built_policy(tiny, kind)
    config = PPOConfig(critic=kind, critic_fit="gradient")
    updater, values, graphs = Updater(config, policy, steps=2), policy.critic.values, []

    def recording(hidden_states: torch.Tensor, *args: Any) -> torch.Tensor:
        graphs.append(hidden_states.requires_grad)
        return values(hidden_states, *args)

    monkeypatch.setattr(policy.critic, "values", recording)
    batch = tiny_models.minibatch_of(policy, tiny)
    graphs.clear()
    assert updater.step(batch, train_policy=False).grad_norm_critic > 0
    assert graphs == [False] and all(
        value.grad is None for value in policy.trainable_parameters().values()
    )
    updater.step(batch, train_policy=True)
    assert graphs == [False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_a_warmup_trains_the_critic_and_not_the_policy(
    tiny: Path, tmp_path: Path, kind: CriticKind
) -> None:
    options = replace(PPO, critic=kind, iterations=2, critic_warmup_iterations=2)
    run = trainer(tiny, tmp_path, options)
    policy = {
        name: value.detach().clone() for name, value in run.policy.trainable_parameters().items()
    }
    critic = {name: v.detach().clone() for name, v in run.policy.critic_parameters().items()}
    run.run()
    assert all(
        torch.equal(value, policy[name])
        for name, value in run.policy.trainable_parameters().items()
    )
    changed = {
        k for k, value in run.policy.critic_parameters().items() if not value.equal(critic[k])
    }
    assert changed >= {"head.states.linear.weight", "head.states.linear.bias"}
    assert (len(changed) > 2) == (kind in ("adapter", "separate"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_continues_bit_for_bit(tiny: Path, tmp_path: Path, kind: CriticKind) -> None:
    options = replace(PPO, critic=kind, iterations=3, save_every=2)
    uninterrupted = trainer(tiny, tmp_path / "whole", options)
    uninterrupted.run()
    checkpoint = load_checkpoint(tmp_path / "whole" / "checkpoints")
    assert checkpoint.step == 3
    shutil.rmtree(checkpoint.path)  # as if the run had stopped before it was written
    resumed = trainer(tiny, tmp_path / "again", options)
    resumed.restore(load_checkpoint(tmp_path / "whole" / "checkpoints"))
    assert resumed.iteration == 2
    resumed.run()
    for parameters in (Policy.trainable_parameters, Policy.critic_parameters):
        first, second = (
            hash_tensors(parameters(run.policy).items()) for run in (uninterrupted, resumed)
        )
        assert first == second


def test_a_critics_adapter_and_head_load_with_peft(tiny: Path, tmp_path: Path) -> None:
    policy = built_policy(tiny, "adapter")
    shake(policy.critic_parameters())
    policy.critic.save(tmp_path)
    head = load_file(tmp_path / "value_head.safetensors")
    assert head.keys() == {"states.linear.weight", "states.linear.bias", "features"}
    model = LlavaForConditionalGeneration.from_pretrained(policy.llava.base, dtype=torch.float32)
    loaded: Llava = tiny_models.load(tiny)
    loaded.model = PeftModel.from_pretrained(model, tmp_path / CRITIC).eval().base_model.model
    prompts, responses = tiny_models.prompts_of(loaded, tiny), tiny_models.responses_of(loaded)
    with torch.no_grad(), policy.critic.use_adapter():
        expected = policy.llava.response_hidden_states(prompts, responses)
    assert torch.equal(loaded.response_hidden_states(prompts, responses), expected)


def test_a_critic_adapter_needs_a_frozen_base_model(tiny: Path) -> None:
    with pytest.raises(UsageError, match="needs a frozen base model") as caught:
        built_policy(tiny, "adapter", "full")
    assert caught.value.exit_code == 2
