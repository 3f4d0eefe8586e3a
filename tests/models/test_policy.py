"""Policy, critic and reference share one model without affecting each other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import ModelConfig, SamplingConfig
from rlhf.data.microbatching import map_microbatches
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY, Policy, build_policy
from tests.support import tiny_models


def move(policy: Policy) -> None:
    with torch.no_grad():
        for value in policy.trainable_parameters().values():
            value.add_(0.05 * torch.randn_like(value))


@pytest.mark.parametrize("train", ["lora", "full"])
def test_the_reference_is_the_initial_model_and_does_not_change(
    llava: Llava, tiny: Path, train: Any
) -> None:
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    policy = build_policy(llava, ModelConfig(train=train, lora_rank=4), temperature=1.0)
    with torch.no_grad():
        initial = policy.evaluate(prompts, responses).logprobs
        assert torch.equal(policy.reference_outputs(prompts, responses).logprobs, initial)
        move(policy)
        changed = policy.evaluate(prompts, responses).logprobs
    assert float((changed - initial).abs().max()) > 1e-2
    assert torch.equal(policy.reference_outputs(prompts, responses).logprobs, initial)


def test_an_initial_adapter_is_the_reference_not_the_base_model(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    first = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    with torch.no_grad():
        base = first.reference_outputs(prompts, responses).logprobs
        move(first)
        tuned = first.evaluate(prompts, responses).logprobs
    llava.adapters.save(POLICY, tmp_path / "adapter", llava.base)

    second = build_policy(
        tiny_models.load(tiny),
        ModelConfig(lora_rank=4),
        temperature=1.0,
        init_adapter=tmp_path / "adapter",
    )
    with torch.no_grad():
        torch.testing.assert_close(second.evaluate(prompts, responses).logprobs, tuned)
        move(second)
        reference = second.reference_outputs(prompts, responses).logprobs
    torch.testing.assert_close(reference, tuned)
    assert float((reference - base).abs().max()) > 1e-2


def test_the_critic_sees_the_image_and_does_not_train_the_policy(llava: Llava, tiny: Path) -> None:
    prompts, responses = tiny_models.prompts_of(llava, tiny, 2), tiny_models.responses_of(llava, 2)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    assert torch.equal(
        policy.evaluate(prompts, responses).values, torch.zeros(responses.spans.num_tokens)
    )
    torch.nn.init.normal_(policy.critic.head.states.linear.weight)
    values = policy.evaluate(prompts, responses).values
    swapped = replace(prompts, images=prompts.images[::-1])
    assert float((policy.evaluate(swapped, responses).values - values).detach().abs().max()) > 1e-3
    values.sum().backward()
    assert policy.critic.head.states.linear.weight.grad is not None
    assert all(value.grad is None for value in policy.trainable_parameters().values())


def test_values_are_of_the_state_before_the_token(llava: Llava, tiny: Path) -> None:
    """The last token of a response cannot change its own value, nor any value before it."""
    prompts, responses = tiny_models.prompts_of(llava, tiny, 1), tiny_models.responses_of(llava, 1)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    torch.nn.init.normal_(policy.critic.head.states.linear.weight)
    changed_tokens = responses.tokens.clone()
    changed_tokens[-1] = 40
    with torch.no_grad():
        before = policy.evaluate(prompts, responses).values
        after = policy.evaluate(prompts, replace(responses, tokens=changed_tokens)).values
    torch.testing.assert_close(before, after)


def test_two_forwards_are_bit_equal_with_trainable_adapters(llava: Llava, tiny: Path) -> None:
    """There is no dropout, not in LoRA either."""
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    move(policy)
    first, second = (policy.evaluate(prompts, responses) for _ in range(2))
    assert torch.equal(first.logprobs, second.logprobs)


def test_microbatches_come_back_in_order(llava: Llava, tiny: Path) -> None:
    prompts, responses = tiny_models.prompts_of(llava, tiny, 8), tiny_models.responses_of(llava, 8)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    with torch.no_grad():
        expected = policy.evaluate(prompts, responses)
        for budget in (1, 90, 10_000):
            parts = map_microbatches(policy.evaluate, prompts, responses, budget)
            torch.testing.assert_close(parts.logprobs, expected.logprobs, atol=1e-5, rtol=1e-5)


def test_frozen_parameters_are_all_that_is_not_trained(llava: Llava) -> None:
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    frozen = dict(policy.frozen_parameters())
    assert "policy.lm_head.weight" in frozen
    assert not any("lora_" in name for name in frozen)
    total = sum(1 for _ in llava.model.parameters())
    assert len(frozen) + len(policy.trainable_parameters()) == total


def test_policy_and_critic_trained_in_full_are_not_frozen(llava: Llava) -> None:
    """The parameters of the critic's copy have the names of the policy's."""
    policy = build_policy(llava, ModelConfig(train="full"), temperature=1.0, critic="separate")
    frozen = {id(value) for _, value in policy.frozen_parameters()}
    for parameters in (policy.trainable_parameters(), policy.critic_parameters()):
        assert parameters and not any(id(value) in frozen for value in parameters.values())


def test_log_probabilities_are_those_of_the_sampled_temperature(llava: Llava, tiny: Path) -> None:
    prompts = tiny_models.prompts_of(llava, tiny)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=0.5)
    sampling = SamplingConfig(temperature=0.5, max_new_tokens=6)
    responses, sampled = generate(llava, prompts, sampling)
    with torch.no_grad():
        for outputs in (
            policy.evaluate(prompts, responses),
            policy.reference_outputs(prompts, responses),
        ):
            torch.testing.assert_close(outputs.logprobs, sampled.logprobs, atol=1e-4, rtol=0)


def test_full_training_of_a_bfloat16_model_updates_float32_and_multiplies_in_bfloat16(
    tiny: Path,
) -> None:
    """The reference too; log-probabilities are float32."""
    llava = Llava.load(str(tiny / "model"), device=torch.device("cpu"), dtype=torch.bfloat16)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    policy = build_policy(llava, ModelConfig(train="full"), temperature=1.0)
    assert {value.dtype for value in policy.trainable_parameters().values()} == {torch.float32}
    with torch.no_grad():
        logprobs = policy.evaluate(prompts, responses).logprobs
    assert logprobs.dtype == torch.float32
    assert torch.equal(policy.reference_outputs(prompts, responses).logprobs, logprobs)
    llava.precision = policy.reference.precision = torch.float32
    with torch.no_grad():
        exact = policy.evaluate(prompts, responses).logprobs
    assert 1e-4 < float((logprobs - exact).abs().max()) < 0.2
    llava.precision = policy.reference.precision = torch.bfloat16
    generated, sampled = generate(llava, prompts, SamplingConfig(max_new_tokens=6))
    with torch.no_grad():
        evaluated = policy.evaluate(prompts, generated).logprobs
    torch.testing.assert_close(evaluated, sampled.logprobs, atol=0.05, rtol=0)
    loss = policy.evaluate(prompts, responses).logprobs.sum()
    loss.backward()
    assert {
        value.grad.dtype
        for value in policy.trainable_parameters().values()
        if value.grad is not None
    } == {torch.float32}
