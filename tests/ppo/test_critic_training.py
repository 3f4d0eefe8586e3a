"""What a value loss trains where the critic's head is fitted in closed form."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.config.schema import CriticKind, ModelConfig, PPOConfig
from rlhf.models.policy import Policy, build_policy
from rlhf.ppo.critic_training import critic_parameters, fits_head, has_critic, has_value_loss
from rlhf.ppo.updater import Updater
from rlhf.storage.hashing import hash_tensors
from rlhf.types import Minibatch
from tests.support import tiny_models

RIDGE = PPOConfig(critic_fit="ridge", lr=1e-3, max_grad_norm=1e9, vf_coef=1.0)


def values_of(policy: Policy, batch: Minibatch) -> torch.Tensor:
    """Values of every response token, features included (autograd)."""
    hidden_states = policy.policy_outputs(batch.prompts, batch.responses).hidden_states
    assert hidden_states is not None
    features = batch.value_features
    return policy.critic.values(hidden_states, batch.prompts, batch.responses, features)


def built(tiny: Path, kind: CriticKind) -> tuple[Policy, Minibatch]:
    """A policy whose head has been fitted to something."""
    torch.manual_seed(0)
    llava = tiny_models.load(tiny)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0, critic=kind)
    policy.critic.head.set_weights(torch.randn(llava.hidden_size + 5), torch.tensor(0.5))
    return policy, tiny_models.minibatch_of(policy, tiny)


def test_what_the_options_say() -> None:
    table = {
        (fit, kind): (fits_head(config), has_value_loss(config))
        for fit in ("ridge", "gradient")
        for kind in ("shared_detached", "shared", "adapter", "separate")
        for config in [replace(RIDGE, critic_fit=fit, critic=kind)]
    }
    assert table == {
        ("ridge", "shared_detached"): (True, False),
        ("ridge", "shared"): (True, True),
        ("ridge", "adapter"): (True, True),
        ("ridge", "separate"): (True, True),
        ("gradient", "shared_detached"): (False, True),
        ("gradient", "shared"): (False, True),
        ("gradient", "adapter"): (False, True),
        ("gradient", "separate"): (False, True),
    }
    for estimator in ("rloo", "grpo", "reinforce"):
        without = replace(RIDGE, advantage_estimator=estimator)
        assert not (has_critic(without) or fits_head(without) or has_value_loss(without))


def test_a_fitted_head_on_detached_states_has_no_parameters_and_no_loss(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, batch = built(tiny, "shared_detached")
    assert critic_parameters(policy, RIDGE) == {}
    monkeypatch.setattr(policy.critic, "values", lambda *_: pytest.fail("the critic ran"))
    updater, head = Updater(RIDGE, policy, steps=2), policy.critic.head.state_dict()
    head = {name: value.clone() for name, value in head.items()}
    for train_policy in (False, True):
        statistics = updater.step(batch, train_policy=train_policy)
        assert statistics.outcome == "taken"
        assert statistics.value_loss == statistics.grad_norm_critic == 0
    assert statistics.grad_norm_policy > 0
    assert all(
        torch.equal(value, head[name]) for name, value in policy.critic.head.state_dict().items()
    )


def test_the_policys_gradient_is_that_without_a_critic(tiny: Path) -> None:
    policy, batch = built(tiny, "shared_detached")
    grads = []
    for options in ({}, {"advantage_estimator": "reinforce"}):
        updater = Updater(replace(RIDGE, lr=1e-30, **options), policy, steps=1)  # type: ignore[arg-type]
        updater.step(batch, train_policy=True)
        trained = policy.trainable_parameters().items()
        grads.append(
            {name: value.grad.clone() for name, value in trained if value.grad is not None}
        )
    assert grads[0].keys() == grads[1].keys() == policy.trainable_parameters().keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["shared", "adapter", "separate"])
def test_the_value_loss_trains_what_is_below_a_fitted_head_and_not_the_head(
    tiny: Path, kind: CriticKind
) -> None:
    policy, batch = built(tiny, kind)
    batch = replace(batch, advantages=torch.zeros_like(batch.advantages))  # no policy gradient
    below = (
        policy.trainable_parameters() if kind == "shared" else policy.critic.backbone_parameters()
    )
    config = replace(RIDGE, critic=kind, lr=1e-30)
    assert policy.critic_parameters().keys() - critic_parameters(policy, config).keys() == {
        "head.features",
        "head.states.linear.weight",
        "head.states.linear.bias",
    }
    head = hash_tensors(policy.critic.head.state_dict().items())
    statistics = Updater(config, policy, steps=1).step(batch, train_policy=True)
    values = values_of(policy, batch)
    loss = (values - batch.returns).square().mean() / 2
    assert statistics.value_loss == pytest.approx(loss.item(), rel=1e-5)
    expected = torch.autograd.grad(loss, [*below.values()])
    assert max(float(grad.abs().max()) for grad in expected) > 1e-3
    for (name, value), grad in zip(below.items(), expected, strict=True):
        torch.testing.assert_close(value.grad, grad, rtol=1e-4, atol=1e-5, msg=name)
    Updater(replace(config, lr=1e-5), policy, steps=1).step(batch, train_policy=True)
    assert hash_tensors(policy.critic.head.state_dict().items()) == head
    moved = values_of(policy, batch)
    assert float((moved - batch.returns).square().mean().detach() / 2) < loss.item()


def test_the_loss_of_the_updater_is_hubers_on_request(tiny: Path) -> None:
    policy, batch = built(tiny, "shared_detached")
    with torch.no_grad():
        values = values_of(policy, batch)
    errors = torch.linspace(-2, 2, len(values)).abs()
    batch = replace(batch, returns=values - torch.linspace(-2, 2, len(values)))
    losses = torch.where(errors <= 0.5, errors.square() / 2, 0.5 * (errors - 0.25))
    config = replace(RIDGE, critic_fit="gradient", value_huber_delta=0.5)
    statistics = Updater(config, policy, steps=1).step(batch, train_policy=True)
    assert statistics.value_loss == pytest.approx(losses.mean().item(), rel=1e-5)
