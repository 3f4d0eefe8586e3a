"""The value function: what it predicts, when it learns, when it is used, and its checkpoints."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.config.schema import CriticKind, PPOConfig
from rlhf.functional import VALUE_FEATURES, explained_variance, generalized_advantages, whiten
from rlhf.kernels import span_discounted_sum
from rlhf.models.value_head import ValueHead
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ppo.value_function import ValueFunction
from rlhf.spans import Spans
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.storage.hashing import hash_tensors
from rlhf.tracking.reader import read_metrics
from rlhf.types import PromptBatch, Responses, Rollout
from tests.ppo.test_trainer import PPO, trainer
from tests.support import tiny_models

OPTIONS: dict[str, Any] = {
    "critic_fit": "ridge",
    "value_features": VALUE_FEATURES,
    "critic_min_explained_variance": 0.05,
    "gae_lambda": 1.0,
    "critic_warmup_iterations": 0,
    "samples_per_prompt": 2,
}
RIDGE = replace(PPO, **OPTIONS)
GRADIENT = replace(RIDGE, critic_fit="gradient", critic_warmup_iterations=1)
WIDTH = 24


def synthetic_rollout(head: ValueHead, seed: int, finished: bool = True) -> Rollout:
    """Sixteen responses of three tokens, two to a prompt; random states, scores and log-probs."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    states = random(48, WIDTH)
    prompts = PromptBatch(
        torch.zeros(16, dtype=torch.int64),
        Spans.from_lengths([1] * 16),
        ((),) * 16,
        torch.arange(16) // 2,
        ("",) * 16,
    )
    spans = Spans.from_lengths([3] * 16)
    with torch.no_grad():
        values, final_values = head(states), head(random(16, WIDTH))
    return Rollout(
        prompts=prompts,
        responses=Responses(torch.arange(48), spans, torch.full((16,), finished)),
        old_logprobs=-random(48).square(),
        ref_logprobs=-random(48).square(),
        values=values,
        entropy=torch.zeros(48),
        scores=3 * random(16),
        logprob_diff=None,
        final_values=None if finished else final_values,
        critic_states=head.fit_inputs(states),
    )


def finished_buffer(
    value_function: ValueFunction, seed: int, config: PPOConfig = RIDGE, finished: bool = True
) -> RolloutBuffer:
    buffer = RolloutBuffer()
    buffer.append(synthetic_rollout(value_function.head, seed, finished))
    buffer.finish(config, value_function=value_function)
    return buffer


def useful(value_function: ValueFunction) -> ValueFunction:
    """As if the values so far had explained all returns."""
    for _ in range(10):
        value_function.explained_variance.add(torch.arange(99.0), torch.arange(99.0))
    return value_function


def random_head() -> ValueHead:
    head = ValueHead(WIDTH)
    for value in head.parameters():
        torch.nn.init.normal_(value)
    return head


def test_values_are_those_of_the_head_before_it_learns_from_the_rollout() -> None:
    value_function = ValueFunction(RIDGE, random_head())
    buffer = finished_buffer(value_function, 0)
    assert buffer.critic_states is not None and buffer.value_features is not None
    with torch.no_grad():
        expected = value_function.head(buffer.critic_states, buffer.value_features)
        torch.testing.assert_close(buffer.values, expected, rtol=1e-5, atol=1e-5)
        value_function.learn(buffer)
        assert torch.equal(buffer.values, finished_values := buffer.values.clone())
        after = value_function.head(buffer.critic_states, buffer.value_features)
    assert float((after - finished_values).abs().max()) > 1
    assert float(explained_variance(after, buffer.returns)) > 0.3


def test_random_returns_are_not_explained_though_a_fit_of_them_would_seem_to() -> None:
    """28 inputs fit 48 random returns; of rollouts that were not learnt from they say nothing."""
    value_function, apparent = ValueFunction(RIDGE, ValueHead(WIDTH)), []
    for seed in range(10):
        buffer = finished_buffer(value_function, seed)
        assert not buffer.uses_critic
        value_function.learn(buffer)
        assert buffer.critic_states is not None
        with torch.no_grad():
            fitted = value_function.head(buffer.critic_states, buffer.value_features)
        apparent.append(float(explained_variance(fitted, buffer.returns)))
    assert value_function.explained_variance.value < 0.05
    assert apparent[0] > 0.4 and sum(apparent) / 10 > 0.15


def test_the_first_values_are_0_and_not_of_use() -> None:
    value_function = ValueFunction(RIDGE, ValueHead(WIDTH))
    buffer = finished_buffer(value_function, 0)
    assert not buffer.values.any() and not buffer.uses_critic
    assert finished_buffer(
        ValueFunction(replace(RIDGE, critic_min_explained_variance=None), ValueHead(WIDTH)), 0
    ).uses_critic


def measured(value_function: ValueFunction, quality: float) -> None:
    """Learn from a rollout whose values are `quality` of its returns."""
    returns = torch.linspace(-1, 1, 50)
    spans = Spans.from_lengths([1] * 50)
    rollout: Any = SimpleNamespace(
        prompts=SimpleNamespace(sampling_keys=torch.arange(50)),
        responses=SimpleNamespace(spans=spans),
        rewards=returns,
        values=quality * returns,
        returns=returns,
        value_features=None,
        critic_states=None,
    )
    value_function.learn(rollout)


def test_the_use_of_the_values_is_told_once_at_each_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Quality q explains 1 - (1 - q)²: 75 % at ½; with one of -½ it is 1 - (¼ + ¼ + 9/4) / 3."""
    options = replace(GRADIENT, critic_min_explained_variance=0.5)
    value_function, told = ValueFunction(options, ValueHead(4)), []
    for quality in (0.5, 0.5, -0.5, -0.5, 1.0, 1.0, 1.0, 1.0):
        measured(value_function, quality)
        told.append((value_function.is_useful, capsys.readouterr().out))
    assert [is_useful for is_useful, _ in told] == [True, True, *[False] * 5, False]
    assert told[0][1] == (
        "the critic explains 75% of the returns: from the next iteration on advantages use its"
        " values\n"
    )
    assert told[2][1] == (
        "the critic explains 8% of the returns: from the next iteration on advantages are plain"
        " returns (V = 0, λ = 1)\n"
    )
    assert [text for _, text in told[:2]] == [told[0][1], ""]
    assert [text for _, text in told[3:]] == [""] * 5


def test_without_a_bound_the_values_are_always_used(capsys: pytest.CaptureFixture[str]) -> None:
    value_function = ValueFunction(
        replace(GRADIENT, critic_min_explained_variance=None), ValueHead(4)
    )
    for quality in (-1.0, 1.0, -1.0):
        measured(value_function, quality)
        assert value_function.is_useful
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_with_useless_values_advantages_are_the_whitened_returns(gamma: float) -> None:
    config = replace(RIDGE, gamma=gamma)
    buffer = finished_buffer(ValueFunction(config, random_head()), 0, config)
    sums = span_discounted_sum(buffer.rewards, buffer.responses.spans, gamma)
    assert not buffer.uses_critic and buffer.values.any()
    assert torch.equal(buffer.advantages, whiten(sums, min_std=config.whiten_min_std))
    plain = replace(config, advantage_estimator="reinforce")
    without_critic = RolloutBuffer()
    without_critic.append(synthetic_rollout(ValueHead(WIDTH), 0))
    without_critic.finish(plain)
    assert torch.equal(without_critic.advantages, buffer.advantages)


def test_with_useful_values_advantages_are_gae_of_states_and_features() -> None:
    config = replace(RIDGE, gae_lambda=0.9, gae_lambda_value=0.5, whiten_advantages=False)
    value_function = useful(ValueFunction(config, random_head()))
    buffer = finished_buffer(value_function, 0, config)
    rollout = synthetic_rollout(value_function.head, 0)
    assert buffer.uses_critic and buffer.value_features is not None
    values = rollout.values + (buffer.value_features @ value_function.head.features).detach()
    options: dict[str, Any] = {"gamma": 1.0, "spans": rollout.spans, "values": values}
    advantages, _ = generalized_advantages(buffer.rewards, gae_lambda=0.9, **options)
    _, returns = generalized_advantages(buffer.rewards, gae_lambda=0.5, **options)
    torch.testing.assert_close(buffer.values, values, rtol=0, atol=1e-6)
    torch.testing.assert_close(buffer.advantages, advantages, rtol=0, atol=1e-5)
    torch.testing.assert_close(buffer.returns, returns, rtol=0, atol=1e-5)
    assert float((values - rollout.values).abs().max()) > 0.5
    batches = [*buffer.minibatches(4, torch.Generator().manual_seed(0))]
    for batch in batches:
        assert batch.value_features is not None
        rows = batch.responses.tokens  # each token is its own place in the rollout
        assert torch.equal(batch.value_features, buffer.value_features[rows])
        assert torch.equal(batch.old_values, buffer.values[rows])


def test_a_truncated_response_is_bootstrapped_with_its_features_at_the_end() -> None:
    config = replace(RIDGE, missing_eos="bootstrap", whiten_advantages=False)
    value_function = useful(ValueFunction(config, random_head()))
    rollout = synthetic_rollout(value_function.head, 0, finished=False)
    buffer = finished_buffer(value_function, 0, config, finished=False)
    sums = [
        x.double().clamp(min=-3).view(16, 3).sum(1)
        for x in (rollout.old_logprobs, rollout.ref_logprobs)
    ]
    others = buffer.rewards.double().view(8, 2, 3).sum(2).flip(1).flatten()
    ends = torch.stack([*sums, torch.full((16,), 3.0), others], 1)
    scaler = value_function.scaler
    mean, std = torch.tensor(scaler.mean[:4]), torch.tensor(scaler.std[:4])
    features = ((ends - mean) / std).float() @ value_function.head.features.detach()[:4]
    assert buffer.final_values is not None and rollout.final_values is not None
    expected = rollout.final_values + features
    torch.testing.assert_close(buffer.final_values, expected, rtol=1e-4, atol=1e-4)
    last = torch.arange(2, 48, 3)
    td_errors = buffer.rewards[last] + expected - buffer.values[last]
    torch.testing.assert_close(buffer.advantages[last], td_errors, rtol=1e-4, atol=1e-4)
    finished = RolloutBuffer()
    responses = replace(rollout.responses, finished=torch.ones(16, dtype=torch.bool))
    finished.append(replace(rollout, responses=responses))
    finished.finish(config, value_function=value_function)
    assert finished.final_values is not None and not finished.final_values.any()


def test_the_state_survives_a_checkpoint() -> None:
    saved, restored = (ValueFunction(RIDGE, ValueHead(WIDTH)) for _ in range(2))
    for seed in range(3):
        saved.learn(finished_buffer(saved, seed))
    tensors = {name: value.clone() for name, value in saved.tensors().items()}
    restored.load_state_dict(json.loads(json.dumps(saved.state_dict())), tensors)
    restored.head.load_state_dict(saved.head.state_dict())
    assert restored.is_useful == saved.is_useful
    for value_function in (saved, restored):
        value_function.learn(finished_buffer(value_function, 3))
    assert hash_tensors(saved.head.named_parameters()) == hash_tensors(
        restored.head.named_parameters()
    )
    assert saved.state_dict() == restored.state_dict()
    states = saved.tensors(), restored.tensors()
    assert states[0].keys() == states[1].keys() == {"moments", "prompts", "prompt_sums"}
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert ValueFunction(GRADIENT, ValueHead(4)).tensors().keys() == {"prompts", "prompt_sums"}


def everything(run: PPOTrainer) -> dict[str, Any]:
    assert run.value_function
    trained = {**run.policy.trainable_parameters(), **run.policy.critic_parameters()}
    return {
        "weights": hash_tensors(trained.items()),
        "moments": hash_tensors(run.value_function.tensors().items()),
        "values": run.value_function.state_dict(),
    }


@pytest.mark.parametrize(
    ("options", "critic"),
    [
        (RIDGE, "shared_detached"),
        (RIDGE, "adapter"),
        (GRADIENT, "shared_detached"),
        (replace(GRADIENT, critic_head="mlp", value_huber_delta=1.0), "shared_detached"),
    ],
    ids=["ridge", "ridge-adapter", "gradient", "gradient-mlp"],
)
def test_a_run_of_two_and_two_iterations_is_a_run_of_four(
    tiny: Path, tmp_path: Path, options: PPOConfig, critic: CriticKind
) -> None:
    options = replace(options, critic=critic)
    uninterrupted = trainer(tiny, tmp_path / "whole", options)
    uninterrupted.run()
    interrupted = trainer(tiny, tmp_path / "half", options)
    interrupted.config = replace(options, iterations=2)
    interrupted.run()
    resumed = trainer(tiny, tmp_path / "half", options)
    resumed.restore(load_checkpoint(tmp_path / "half/checkpoints"))
    assert everything(resumed) == everything(interrupted)
    resumed.run()
    assert everything(resumed) == everything(uninterrupted)
    assert resumed.policy.critic.head.features.detach().any()
    whole, halves = (
        tiny_models.timeless_curves(tmp_path / name / "metrics.jsonl") for name in ("whole", "half")
    )
    assert whole == halves and len(whole) == 4


def test_the_metrics_of_a_fitted_critic(tiny: Path, tmp_path: Path) -> None:
    """Predicted before it is learnt from, the first rollout is explained by nothing."""
    trainer(tiny, tmp_path, replace(RIDGE, critic_min_explained_variance=None)).run()
    metrics = read_metrics(tmp_path)
    explained = [value for _, value in metrics["val/explained_variance"]]
    assert explained[0] == 0.0 and 0.0 not in explained[1:]
    assert metrics["val/critic_used"] == [(step, 1.0) for step in range(4)]
    gradient_only = {"loss/value_avg", "val/clipfrac_avg", "optim/grad_norm_critic"}
    assert not gradient_only & metrics.keys()
    trainer(tiny, tmp_path / "adapter", replace(RIDGE, critic="adapter", iterations=1)).run()
    with_loss = read_metrics(tmp_path / "adapter")
    assert gradient_only <= with_loss.keys()
    assert with_loss["val/critic_used"] == [(0, 0.0)]
