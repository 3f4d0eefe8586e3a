"""What one optimizer step averages: every real token once, and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import ModelConfig, PPOConfig
from rlhf.models.policy import Policy, build_policy
from rlhf.ppo.updater import Updater
from rlhf.types import Minibatch
from tests.support import tiny_models


@pytest.fixture
def policy(tiny: Path) -> Policy:
    return build_policy(tiny_models.load(tiny), ModelConfig(lora_rank=4), temperature=1.0)


@pytest.fixture
def batch(policy: Policy, tiny: Path) -> Minibatch:
    return tiny_models.minibatch_of(policy, tiny)


def stepped(policy: Policy, batch: Minibatch, **options: Any) -> tuple[dict, dict]:
    """Statistics and gradients of a step that clips nothing and hardly moves."""
    config = PPOConfig(lr=1e-30, max_grad_norm=1e9, critic_fit="gradient", **options)
    updater = Updater(config, policy, steps=1)
    statistics = vars(updater.step(batch, train_policy=True))
    named = policy.trainable_parameters() | dict(policy.critic.head.named_parameters())
    return statistics, {name: value.grad for name, value in named.items()}


@pytest.mark.parametrize("microbatch_tokens", [1, 10_000])
def test_the_entropy_is_the_mean_over_tokens(
    policy: Policy, batch: Minibatch, microbatch_tokens: int
) -> None:
    with torch.no_grad():
        entropy = policy.evaluate(batch.prompts, batch.responses).entropy
    statistics, _ = stepped(policy, batch, microbatch_tokens=microbatch_tokens)
    assert statistics["entropy"] == pytest.approx(entropy.mean().item(), rel=1e-5)


def test_a_token_of_probability_one_counts(policy: Policy, batch: Minibatch) -> None:
    """Its log-probability is exactly 0, which is no sign of padding."""
    old_logprobs = batch.old_logprobs.clone()
    old_logprobs[0] = 0
    plain, _ = stepped(policy, batch)
    statistics, _ = stepped(policy, replace(batch, old_logprobs=old_logprobs))
    assert statistics["entropy"] == pytest.approx(plain["entropy"], rel=1e-6)
    assert statistics["value_loss"] == pytest.approx(plain["value_loss"], rel=1e-6)


def test_the_gradient_is_that_of_the_mean_over_tokens(policy: Policy, batch: Minibatch) -> None:
    """At the old weights it is the policy gradient, less the bonus: mean of -A·∇log π - c·∇H."""
    _, gradients = stepped(policy, batch, ent_coef=0.3, vf_coef=0.5, microbatch_tokens=1)
    scores = policy.evaluate(batch.prompts, batch.responses)
    policy_loss = -(batch.advantages * scores.logprobs + 0.3 * scores.entropy).mean()
    assert batch.value_features is not None
    values = scores.values + policy.critic.head.feature_values(batch.value_features)
    value_loss = 0.25 * (values - batch.returns).square().mean()
    for value in (*policy.trainable_parameters().values(), *policy.critic.head.parameters()):
        value.grad = None
    (policy_loss + value_loss).backward()
    named = policy.trainable_parameters() | dict(policy.critic.head.named_parameters())
    expected = {name: x.grad for name, x in named.items() if x.grad is not None}
    assert max(float(value.abs().max()) for value in expected.values()) > 1e-3
    assert expected.keys() == named.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(gradients[name], grad, atol=1e-5, rtol=1e-4, msg=name)
