"""One optimizer step: the split does not matter, bad numbers do not pass, every step is taken."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import ModelConfig, PPOConfig
from rlhf.kernels.token_logprobs import chunk_logits
from rlhf.models.llava import Llava
from rlhf.models.policy import Policy, build_policy
from rlhf.ppo.updater import Updater
from rlhf.types import Minibatch
from tests.support import tiny_models


@pytest.fixture
def policy(tiny: Path) -> Policy:
    """In float64, so that only wrong arithmetic can tell two splits apart."""
    llava: Llava = tiny_models.load(tiny)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    llava.model.double()
    return policy


def minibatch(policy: Policy, tiny: Path) -> Minibatch:
    """The old policy is a little away from the present one."""
    batch = tiny_models.minibatch_of(policy, tiny)
    noise = 0.05 * torch.randn_like(batch.advantages)
    return replace(batch, old_logprobs=batch.old_logprobs + noise)


def gradients(policy: Policy, batch: Minibatch, microbatch_tokens: int) -> list[torch.Tensor]:
    config = PPOConfig(
        lr=1e-12, max_grad_norm=1e9, microbatch_tokens=microbatch_tokens, critic_fit="gradient"
    )
    updater = Updater(config, policy, steps=1)
    updater.step(batch, train_policy=True)
    parameters = [*policy.trainable_parameters().values(), *policy.critic.head.parameters()]
    return [value.grad.clone() for value in parameters if value.grad is not None]


def test_the_split_into_microbatches_does_not_change_the_gradient(
    policy: Policy, tiny: Path
) -> None:
    batch = minibatch(policy, tiny)
    expected = gradients(policy, batch, 100_000)
    assert max(float(value.abs().max()) for value in expected) > 1e-4
    for budget in (1, 90):
        for expected_gradient, gradient in zip(
            expected, gradients(policy, batch, budget), strict=True
        ):
            torch.testing.assert_close(expected_gradient, gradient, atol=1e-6, rtol=1e-6)


def test_a_mean_of_means_would_be_a_different_gradient(policy: Policy, tiny: Path) -> None:
    """The control: averaging each response on its own weighs a one-token answer like a long one."""
    batch = minibatch(policy, tiny)
    batch_gradients = gradients(policy, batch, 100_000)
    row_gradients = [gradients(policy, batch.select(torch.tensor([row])), 1) for row in range(4)]
    means = [torch.stack(parts).mean(0) for parts in zip(*row_gradients, strict=True)]
    gap = sum(float((a - b).norm()) for a, b in zip(batch_gradients, means, strict=True))
    assert gap / sum(float(value.norm()) for value in batch_gradients) > 0.05


def test_at_the_old_weights_the_ratio_is_one_and_nothing_is_clipped(
    policy: Policy, tiny: Path
) -> None:
    batch = minibatch(policy, tiny)
    with torch.no_grad():
        logprobs = policy.evaluate(batch.prompts, batch.responses).logprobs
    batch_on_policy = replace(batch, old_logprobs=logprobs)
    updater = Updater(PPOConfig(lr=1e-30), policy, steps=1)
    for _ in range(3):
        statistics = updater.step(batch_on_policy, train_policy=True)
        assert statistics.ratio_gap < 1e-5
        assert statistics.ratio == pytest.approx(1, abs=1e-6)
        assert statistics.approx_kl == pytest.approx(0, abs=1e-8)
        assert statistics.clipfrac == 0


def test_warm_up_moves_the_critic_only(policy: Policy, tiny: Path) -> None:
    batch = minibatch(policy, tiny)
    before = {name: value.clone() for name, value in policy.trainable_parameters().items()}
    updater = Updater(PPOConfig(lr=1e-3, critic_fit="gradient"), policy, steps=1)
    updater.step(batch, train_policy=False)
    assert all(
        torch.equal(before[name], value) for name, value in policy.trainable_parameters().items()
    )
    assert float(policy.critic.head.states.linear.weight.detach().abs().max()) > 0
    updater.step(batch, train_policy=True)
    assert any(
        not torch.equal(before[name], value)
        for name, value in policy.trainable_parameters().items()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["advantages", "returns", "old_logprobs"])
def test_a_step_that_is_not_finite_leaves_the_weights_alone(
    policy: Policy, tiny: Path, value: float, field: str
) -> None:
    batch = minibatch(policy, tiny)
    poisoned = getattr(batch, field).clone()
    poisoned[2] = value
    before = [parameter.clone() for parameter in policy.trainable_parameters().values()]
    updater = Updater(PPOConfig(lr=1e-3, critic_fit="gradient"), policy, steps=2)
    statistics = updater.step(replace(batch, **{field: poisoned}), train_policy=True)
    assert statistics.outcome == "skipped"
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, policy.trainable_parameters().values(), strict=True)
    )
    assert updater.step(batch, train_policy=True).outcome == "taken"


def test_over_target_kl_the_step_is_not_taken(policy: Policy, tiny: Path) -> None:
    batch = minibatch(policy, tiny)
    before = [value.clone() for value in policy.trainable_parameters().values()]
    updater = Updater(PPOConfig(lr=1e-3, target_kl=1e-9), policy, steps=1)
    assert updater.step(batch, train_policy=True).outcome == "stopped"
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, policy.trainable_parameters().values(), strict=True)
    )


def test_the_gradient_is_clipped_per_group_and_its_norm_reported_unclipped(
    policy: Policy, tiny: Path
) -> None:
    batch = minibatch(policy, tiny)
    config = PPOConfig(lr=1e-12, max_grad_norm=1e-3, critic_fit="gradient")
    updater = Updater(config, policy, steps=1)
    statistics = updater.step(batch, train_policy=True)
    assert statistics.grad_norm_policy > 1e-3 and statistics.grad_norm_critic > 1e-3
    clipped = [
        value.grad for value in policy.trainable_parameters().values() if value.grad is not None
    ]
    norm = torch.stack([value.norm() for value in clipped]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_learning_rates_of_policy_and_critic(policy: Policy, tiny: Path) -> None:
    config = PPOConfig(lr=1e-4, lr_schedule="linear", critic_fit="gradient")
    updater, batch = Updater(config, policy, steps=4), minibatch(policy, tiny)
    rates = []
    for _ in range(4):
        updater.step(batch, train_policy=True)
        rates.append([group["lr"] for group in updater.optimizer.param_groups])
    expected = [(1e-4, 5e-4), (7.5e-5, 3.75e-4), (5e-5, 2.5e-4), (2.5e-5, 1.25e-4)]
    assert [value for pair in rates for value in pair] == pytest.approx(
        [value for pair in expected for value in pair]
    )


def exact_kl(policy: Policy, batch: Minibatch) -> torch.Tensor:
    """Mean KL(policy ‖ reference) over the tokens, from whole distributions."""
    llava = policy.llava
    with torch.no_grad():
        log_p = log_distributions(llava, batch)
        with policy.use_reference():
            log_q = log_distributions(llava, batch)
    return (log_p.exp() * (log_p - log_q).nan_to_num(0)).sum(1).mean()


def log_distributions(llava: Llava, batch: Minibatch) -> torch.Tensor:
    logits = llava.response_hidden_states(batch.prompts, batch.responses) @ llava.output_weight.T
    logits[:, llava.banned_ids] = -torch.inf
    return logits.log_softmax(1)


@pytest.mark.parametrize("estimator", ["k2", "exact"])
def test_the_kl_in_the_loss_pulls_back_to_the_reference(
    policy: Policy, tiny: Path, estimator: Any
) -> None:
    batch = minibatch(policy, tiny)
    torch.manual_seed(1)
    with torch.no_grad():
        for value in policy.trainable_parameters().values():
            value.add_(0.3 * torch.randn_like(value))
        logprobs = policy.evaluate(batch.prompts, batch.responses).logprobs
        reference = policy.reference_outputs(
            batch.prompts, batch.responses, return_hidden_states=True
        )
    ref_hidden_states, zeros = reference.hidden_states, torch.zeros(len(logprobs))
    batch = replace(
        batch, old_logprobs=logprobs, ref_hidden_states=ref_hidden_states, advantages=zeros
    )
    initial_kl = exact_kl(policy, batch)
    config = PPOConfig(lr=3e-3, kl_placement="loss", kl_estimator=estimator, kl_coef=1.0)
    updater = Updater(config, policy, steps=20)
    first = updater.step(batch, train_policy=True)
    if estimator == "exact":
        assert first.kl_loss == pytest.approx(float(initial_kl), rel=1e-4)
    else:
        k2 = (batch.ref_logprobs - logprobs).square().mean() / 2
        assert first.kl_loss == pytest.approx(float(k2), rel=1e-4)
    for _ in range(18):
        updater.step(batch, train_policy=True)
    last = updater.step(batch, train_policy=True)
    assert last.kl_loss < 0.5 * first.kl_loss
    if estimator == "exact":
        assert float(exact_kl(policy, batch)) < 0.5 * float(initial_kl)


def test_the_kl_coefficient_of_the_loss_is_the_updaters(policy: Policy, tiny: Path) -> None:
    batch = minibatch(policy, tiny)
    flat = torch.zeros_like(batch.advantages)
    batch = replace(batch, advantages=flat, ref_logprobs=batch.old_logprobs - 1)
    norms = []
    for kl_coef in (0.0, 1.0, 2.0):
        updater = Updater(PPOConfig(lr=1e-12, kl_placement="loss"), policy, steps=1)
        updater.kl_coef = kl_coef
        norms.append(updater.step(batch, train_policy=True).grad_norm_policy)
    assert norms[0] < 1e-12
    assert norms[2] == pytest.approx(2 * norms[1], rel=1e-6)


def test_minibatches_are_whitened_on_request(policy: Policy, tiny: Path) -> None:
    """Whitened, their mean and scale make no difference to the gradient."""
    batch = minibatch(policy, tiny)
    shifted = replace(batch, advantages=5 * batch.advantages + 3)

    def norm(batch: Minibatch, whiten: bool) -> float:
        config = PPOConfig(lr=1e-12, whiten_minibatches=whiten, whiten_min_std=1e-6)
        return Updater(config, policy, steps=1).step(batch, train_policy=True).grad_norm_policy

    assert norm(batch, True) == pytest.approx(norm(shifted, True), rel=1e-5)
    assert norm(batch, False) != pytest.approx(norm(shifted, False), rel=1e-1)


def test_without_a_critic_its_head_receives_no_gradient(policy: Policy, tiny: Path) -> None:
    updater = Updater(PPOConfig(lr=1e-3, advantage_estimator="rloo"), policy, steps=1)
    statistics = updater.step(minibatch(policy, tiny), train_policy=True)
    assert statistics.grad_norm_critic == 0 and statistics.grad_norm_policy > 0
    assert not policy.critic.head.states.linear.weight.detach().any()


def test_the_exact_kl_needs_the_hidden_states_of_the_reference(policy: Policy, tiny: Path) -> None:
    config = PPOConfig(kl_placement="loss", kl_estimator="exact")
    with pytest.raises(ValueError, match="ref_hidden_states: got None"):
        Updater(config, policy, steps=1).step(minibatch(policy, tiny), train_policy=True)


@pytest.mark.parametrize(("ent_coef", "passes"), [(0.0, 1), (0.1, 2)])
def test_an_entropy_that_is_only_logged_costs_no_second_pass_over_the_vocabulary(
    policy: Policy, tiny: Path, monkeypatch: pytest.MonkeyPatch, ent_coef: float, passes: int
) -> None:
    calls = []

    def counting_logits(*args: torch.Tensor) -> torch.Tensor:
        calls.append(args)
        return chunk_logits(*args)  # type: ignore[arg-type]

    batch = minibatch(policy, tiny)
    module = sys.modules[chunk_logits.__module__]  # its name is also a function's
    monkeypatch.setattr(module, "chunk_logits", counting_logits)
    Updater(PPOConfig(ent_coef=ent_coef), policy, steps=1).step(batch, train_policy=True)
    assert len(calls) == passes
