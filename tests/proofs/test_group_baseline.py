"""A critic over groups leaves the policy gradient unbiased: expectations over every outcome."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from rlhf.config.schema import PPOConfig
from rlhf.functional import value_features
from rlhf.kernels import span_sum, token_logprobs
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.value_function import ValueFunction
from rlhf.types import Rollout
from tests.proofs.problems import PPO, RIDGE, distance, responses, sequences
from tests.proofs.tabular import TabularPolicy, prompts_of, responses_of

SCORES = {
    (0,): -1.0,
    (1, 0): 0.5,
    (1, 1): 2.0,
    (1, 2): -0.25,
    (2, 0): 1.5,
    (2, 1): -3.0,
    (2, 2): 1.0,
}
BETA = 0.25
MANY = {"rollout_batch_size": 1024, "minibatch_size": 1024}
CONFIG = replace(PPO, **RIDGE, kl_coef=BETA, whiten_advantages=False)


@dataclass
class SampledGroups:
    """Every group of responses to a prompt that can be sampled, and its probability."""

    rollout: Rollout
    probabilities: Tensor  # [groups] float64
    size: int


@pytest.fixture
def policy() -> TabularPolicy:
    """Three tokens, up to two of them, away from the reference, with an arbitrary critic."""
    policy = TabularPolicy((0.2, 0.5, 0.3), 2).double()
    torch.nn.init.normal_(policy.logits)
    for value in policy.critic.head.parameters():
        torch.nn.init.normal_(value)
    return policy


def all_groups(policy: TabularPolicy, size: int) -> SampledGroups:
    rows = [row for group in product(responses(3, 2), repeat=size) for row in group]
    keys = torch.arange(len(rows)) // size
    prompts, batch = prompts_of(keys), responses_of(torch.tensor([[*row, 0][:2] for row in rows]))
    with torch.no_grad():
        outputs = policy.evaluate(prompts, batch)
    reference = policy.reference[policy.prefixes(batch)]
    rollout = Rollout(
        prompts=prompts,
        responses=batch,
        old_logprobs=outputs.logprobs,
        ref_logprobs=token_logprobs(reference, policy.identity, batch.tokens)[0],
        values=outputs.values,
        entropy=outputs.entropy,
        scores=torch.tensor([SCORES[row] for row in rows], dtype=torch.float64),
        logprob_diff=None,
        critic_states=policy.critic_states(batch),
    )
    logprobs = span_sum(outputs.logprobs, batch.spans)
    return SampledGroups(rollout, logprobs.view(-1, size).sum(1).exp(), size)


def expected_gradient(policy: TabularPolicy, groups: SampledGroups, config: PPOConfig) -> Tensor:
    """Gradient of E[Σ A·log π / G], weighing each group by its probability."""
    buffer = RolloutBuffer()
    buffer.append(groups.rollout)
    value_function = ValueFunction(config, policy.critic.head)
    value_function.explained_variance.add(torch.arange(3.0), torch.arange(3.0))  # is of use
    buffer.finish(config, value_function=value_function)
    assert buffer.uses_critic and float(buffer.values.std()) > 0.5
    logprobs = policy.policy_outputs(buffer.prompts, buffer.responses).logprobs
    gains = span_sum(buffer.advantages * logprobs, buffer.responses.spans)
    objective = groups.probabilities @ gains.view(-1, groups.size).mean(1)
    (gradient,) = torch.autograd.grad(objective, policy.logits)
    return gradient


def true_gradient(policy: TabularPolicy) -> Tensor:
    """Gradient of Σ π(y)·(score(y) - β·log(π(y) / π_ref(y))) over the seven responses."""
    single = all_groups(policy, 1).rollout
    spans = single.responses.spans
    logprobs = span_sum(policy.policy_outputs(single.prompts, single.responses).logprobs, spans)
    rewards = single.scores - BETA * (logprobs - span_sum(single.ref_logprobs, spans))
    (gradient,) = torch.autograd.grad((logprobs.exp() * rewards).sum(), policy.logits)
    return gradient


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_expected_gradient_is_the_true_one(policy: TabularPolicy, size: int) -> None:
    groups = all_groups(policy, size)
    assert float(groups.probabilities.sum()) == pytest.approx(1, abs=1e-12)
    truth = true_gradient(policy)
    assert float(truth.abs().max()) > 0.1
    gradient = expected_gradient(policy, groups, CONFIG)
    torch.testing.assert_close(gradient, truth, rtol=1e-6, atol=1e-6)


def later_features(*args: Any) -> Any:
    """Features that know the token itself: the rows of the next state."""
    features = value_features(*args)
    return features._replace(tokens=features.tokens.roll(-1, 0))


def mean_of_all(scores: Tensor, groups: Tensor) -> Tensor:
    size = len(groups) // int(groups.max() + 1)
    return scores.view(-1, size).mean(1).repeat_interleave(size)


@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        ("rlhf.ppo.value_function.value_features", later_features),
        ("rlhf.functional.value_features.mean_of_others", mean_of_all),
    ],
)
def test_a_baseline_that_knows_the_token_or_the_own_return_is_biased(
    policy: TabularPolicy, target: str, wrong: Callable[..., Any]
) -> None:
    with patch(target, wrong):
        gradient = expected_gradient(policy, all_groups(policy, 2), CONFIG)
    assert float((gradient - true_gradient(policy)).abs().max()) > 0.02


@pytest.mark.parametrize("samples_per_prompt", [1, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_fitted_critic_with_all_features_reaches_the_optimum(
    seed: int, samples_per_prompt: int
) -> None:
    options: dict[str, Any] = {"samples_per_prompt": samples_per_prompt, **MANY}
    assert distance(sequences(seed), seed, **RIDGE, **options) < 0.002


@pytest.mark.parametrize("seed", [0, 2])
def test_features_that_know_the_token_miss_the_optimum(seed: int) -> None:
    with patch("rlhf.ppo.value_function.value_features", later_features):
        assert distance(sequences(seed), seed, **RIDGE) > 0.03


def test_plain_returns_end_farther_from_the_optimum() -> None:
    """The same samples without any critic: 0.014 in place of 0.002."""
    assert distance(sequences(0), 0, advantage_estimator="reinforce") > 0.01
    assert distance(sequences(0), 0, **RIDGE) < 0.003
