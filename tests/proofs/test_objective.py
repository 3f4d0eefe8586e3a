"""Loss and gradient of an optimizer step against a float64 loop, for all micro-batch sizes."""

import math
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from rlhf.config.schema import PPOConfig
from rlhf.kernels import token_logprobs
from rlhf.ppo.updater import Updater
from rlhf.types import Minibatch
from tests.proofs.tabular import TabularPolicy, prompts_of, responses_of

PLACEMENTS = [("reward", "k1"), ("loss", "k2"), ("loss", "exact")]
ROWS = [[1, 2, 3], [0, 0, 0], [2, 0, 0], [3, 1, 0], [1, 1, 1], [0, 0, 0], [2, 3, 2]]


def options(placement: Any, kind: Any) -> PPOConfig:
    """Return options under which every term of the objective matters."""
    return PPOConfig(
        kl_placement=placement,
        kl_estimator=kind,
        kl_coef=0.3,
        vf_coef=0.7,
        critic_fit="gradient",
        ent_coef=0.2,
        clip_range=0.2,
        clip_range_value=0.25,
        max_grad_norm=1e9,
        lr=1e-30,
    )


@pytest.fixture
def policy() -> TabularPolicy:
    policy = TabularPolicy((0.1, 0.4, 0.3, 0.2), 3).double()
    torch.nn.init.normal_(policy.logits)
    torch.nn.init.normal_(policy.value_head.weight)
    return policy


def minibatch(policy: TabularPolicy, kind: str) -> Minibatch:
    """Return a minibatch with ratios and values on both sides of their clips."""
    responses = responses_of(torch.tensor(ROWS))
    prompts = prompts_of(torch.arange(len(ROWS)))
    prefixes, count = policy.prefixes(responses), responses.spans.num_tokens
    ref_hidden_states = policy.reference[prefixes]
    with torch.no_grad():
        outputs = policy.evaluate(prompts, responses)
    return Minibatch(
        prompts=prompts,
        responses=responses,
        old_logprobs=outputs.logprobs + 0.3 * torch.randn(count, dtype=torch.float64),
        old_values=outputs.values + 0.5 * torch.randn(count, dtype=torch.float64),
        ref_logprobs=token_logprobs(ref_hidden_states, policy.identity, responses.tokens)[0],
        advantages=torch.randn(count, dtype=torch.float64),
        returns=torch.randn(count, dtype=torch.float64),
        ref_hidden_states=ref_hidden_states if kind == "exact" else None,
    )


def gradients(policy: TabularPolicy, batch: Minibatch, config: PPOConfig) -> Tensor:
    """Return the gradients [P] of logits and values after one step of the updater."""
    outcome = Updater(config, policy, steps=1).step(batch, train_policy=True).outcome  # type: ignore[arg-type]
    assert outcome == "taken"
    grads = [policy.logits.grad, policy.value_head.weight.grad]
    return torch.cat([value.flatten() for value in grads if value is not None])


def microbatch_size(size: int) -> Any:
    """Make micro-batches of `size` responses, inside the block."""
    return patch(
        "rlhf.ppo.updater.microbatches",
        lambda prompts, *_: torch.arange(len(prompts)).split(size),
    )


@pytest.mark.parametrize(("placement", "kind"), PLACEMENTS)
def test_the_split_does_not_change_the_gradient(
    policy: TabularPolicy, placement: Any, kind: Any
) -> None:
    batch, config = minibatch(policy, kind), options(placement, kind)
    full = gradients(policy, batch, config)
    assert float(full.norm()) > 0.1
    for size in (1, 2, 3, len(ROWS)):
        with microbatch_size(size):
            split = gradients(policy, batch, config)
        torch.testing.assert_close(split, full, rtol=1e-10, atol=1e-10)


def test_a_mean_of_microbatch_means_is_another_gradient(policy: TabularPolicy) -> None:
    batch, config, backward = (
        minibatch(policy, "k2"),
        options("loss", "k2"),
        Updater._backward_microbatch,
    )
    full = gradients(policy, batch, config)

    def microbatch_mean(self: Updater, part: Minibatch, count: int, train_policy: bool) -> Any:
        return backward(self, part, len(ROWS) * part.responses.spans.num_tokens, train_policy)

    with microbatch_size(1), patch.object(Updater, "_backward_microbatch", microbatch_mean):
        means = gradients(policy, batch, config)
    assert float((means - full).norm() / full.norm()) > 0.05


class Oracle:
    """The objective of a step as a loop over tokens, on lists of logits and values."""

    def __init__(self, policy: TabularPolicy, batch: Minibatch, config: PPOConfig) -> None:
        self.config, self.prefixes = config, policy.prefixes(batch.responses).tolist()
        self.tokens, self.reference = batch.responses.tokens.tolist(), policy.reference[0].tolist()
        self.old, self.advantages = batch.old_logprobs.tolist(), batch.advantages.tolist()
        self.old_values, self.returns = batch.old_values.tolist(), batch.returns.tolist()
        # k2's weight is not differentiated: it is that of the current policy.
        self.weights = [self._ratio(policy.logits.tolist(), i) for i in range(len(self.tokens))]

    def __call__(self, logits: list[list[float]], values: list[float]) -> float:
        count = len(self.tokens)
        return math.fsum(self._token(logits, values, i) for i in range(count)) / count

    def _token(self, logits: list[list[float]], values: list[float], i: int) -> float:
        config, advantage, ratio = self.config, self.advantages[i], self._ratio(logits, i)
        p, q = softmax(logits[self.prefixes[i]]), softmax(self.reference)
        objective = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
        value_change = min(max(values[self.prefixes[i]] - self.old_values[i], -0.25), 0.25)
        predictions = values[self.prefixes[i]], self.old_values[i] + value_change
        error = max((value - self.returns[i]) ** 2 for value in predictions) / 2
        entropy = -math.fsum(x * math.log(x) for x in p)
        loss = -objective + config.vf_coef * error - config.ent_coef * entropy
        if config.kl_placement == "reward":
            return loss
        log_ratio = math.log(p[self.tokens[i]] / q[self.tokens[i]])
        kl = min(max(self.weights[i], 0.8), 1.2) * log_ratio**2 / 2
        if config.kl_estimator == "exact":
            kl = math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        return loss + config.kl_coef * kl

    def _ratio(self, logits: list[list[float]], i: int) -> float:
        return softmax(logits[self.prefixes[i]])[self.tokens[i]] / math.exp(self.old[i])


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(x) for x in logits]
    return [w / math.fsum(weights) for w in weights]


def differences(function: Callable[[list[float]], float], at: list[float]) -> list[float]:
    """Return central differences of `function` in every argument."""
    step, gradient = 1e-5, []
    for i in range(len(at)):
        up, down = ([*at[:i], at[i] + side, *at[i + 1 :]] for side in (step, -step))
        gradient.append((function(up) - function(down)) / (2 * step))
    return gradient


@pytest.mark.parametrize(("placement", "kind"), PLACEMENTS)
def test_the_gradient_is_that_of_a_float64_loop(
    policy: TabularPolicy, placement: Any, kind: Any
) -> None:
    batch, config = minibatch(policy, kind), options(placement, kind)
    oracle, vocabulary = Oracle(policy, batch, config), policy.vocabulary
    logits, values = policy.logits.flatten().tolist(), policy.value_head.weight.flatten().tolist()

    def objective(numbers: list[float]) -> float:
        table = numbers[: len(logits)]
        rows = [table[i : i + vocabulary] for i in range(0, len(table), vocabulary)]
        return oracle(rows, numbers[len(logits) :])

    updater, count = Updater(config, policy, steps=1), batch.responses.spans.num_tokens  # type: ignore[arg-type]
    outputs = policy.policy_outputs(batch.prompts, batch.responses, batch.ref_hidden_states)
    loss = updater._policy_loss(outputs, batch, count)[0]
    loss = loss + config.vf_coef * updater._value_loss(outputs, batch, count)[0]
    assert loss.item() == pytest.approx(objective(logits + values), abs=1e-12)
    expected = torch.tensor(differences(objective, logits + values), dtype=torch.float64)
    torch.testing.assert_close(gradients(policy, batch, config), expected, rtol=1e-6, atol=1e-8)
