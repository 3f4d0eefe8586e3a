"""Metrics of an iteration, against sums worked out by hand."""

from dataclasses import replace

import pytest
import torch

from rlhf.config.schema import PPOConfig
from rlhf.kernels import span_sum
from rlhf.models.value_head import ValueHead
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.metrics import iteration_metrics
from rlhf.ppo.step_metrics import TOKEN_MEANS, StepMetrics
from rlhf.ppo.value_function import ValueFunction
from rlhf.types import Rollout
from tests.ppo.test_buffer import rollout


def metrics_of(config: PPOConfig, part: Rollout) -> tuple[dict[str, float], RolloutBuffer]:
    buffer = RolloutBuffer()
    buffer.append(part)
    buffer.finish(config)
    zeros = dict.fromkeys((*TOKEN_MEANS, "ratio_gap", "grad_norm_policy", "grad_norm_critic"), 0.0)
    steps = [StepMetrics(**zeros, num_tokens=4, num_responses=2, outcome="taken")]
    texts, value_function = ["red", "a blue star"], ValueFunction(config, ValueHead(8))
    return iteration_metrics(part, buffer, steps, texts, config, value_function), buffer


def test_the_logged_kl_is_the_one_that_was_paid() -> None:
    """log π - log π_ref is 0.5 | -1, 0, 1: sums 0.5 and 0."""
    metrics, buffer = metrics_of(PPOConfig(kl_coef=0.1), rollout())
    assert metrics["objective/kl"] == pytest.approx(0.25)
    paid = (span_sum(buffer.rewards, buffer.responses.spans) - buffer.scores).mean()
    assert metrics["objective/non_score_reward"] == pytest.approx(paid.item(), abs=1e-6)
    assert metrics["objective/rlhf_reward"] == pytest.approx(
        span_sum(buffer.rewards, buffer.responses.spans).mean().item(), abs=1e-6
    )


def test_the_kl_a_token_is_averaged_within_each_response_first() -> None:
    """log π - log π_ref is 0.5 | 1, 2, 3: means 0.5 and 2, mean of these 1.25."""
    old_logprobs = torch.tensor([-1.0, -2.0, -1.0, -0.5])
    kl = torch.tensor([0.5, 1.0, 2.0, 3.0])
    part = replace(rollout(), old_logprobs=old_logprobs, ref_logprobs=old_logprobs - kl)
    metrics, _ = metrics_of(PPOConfig(), part)
    assert metrics["objective/kl_per_token"] == pytest.approx(1.25)
    assert metrics["objective/kl"] == pytest.approx(3.25)


def test_the_entropy_of_the_sample_is_minus_its_log_probability() -> None:
    metrics, _ = metrics_of(PPOConfig(), rollout())
    assert metrics["objective/entropy"] == pytest.approx((1 + 3.5) / 2)


def test_lengths_and_ends_are_counted_over_responses() -> None:
    metrics, _ = metrics_of(PPOConfig(), rollout())
    assert metrics["tokens/responses_len_mean"] == 2
    assert metrics["tokens/responses_len_std"] == 1
    assert metrics["val/num_eos_tokens"] == 2
    assert torch.isfinite(torch.tensor(list(metrics.values()))).all()
