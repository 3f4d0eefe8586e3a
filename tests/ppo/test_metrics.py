"""The curves of an iteration, against sums worked out from the rewards themselves."""

import pytest
import torch

from rlhf.config.schema import PPOConfig
from rlhf.kernels import span_sum
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.metrics import iteration_metrics
from rlhf.ppo.updater import TOKEN_MEANS, StepMetrics
from tests.ppo.test_buffer import rollout


def metrics(config: PPOConfig) -> tuple[dict[str, float], RolloutBuffer]:
    found, buffer = rollout(), RolloutBuffer()
    buffer.append(found)
    buffer.finish(config)
    zeros = dict.fromkeys((*TOKEN_MEANS, "ratio_gap", "grad_norm_policy", "grad_norm_critic"), 0.0)
    steps = [StepMetrics(**zeros, outcome="taken")]
    return iteration_metrics(found, buffer, steps, ["red", "a blue star"], config), buffer


def test_the_logged_kl_is_the_one_that_was_paid() -> None:
    """log π - log π_ref is 0.5 | -1, 0, 1: sums 0.5 and 0."""
    found, buffer = metrics(PPOConfig(kl_coef=0.1))
    assert found["objective/kl"] == pytest.approx(0.25)
    paid = (span_sum(buffer.rewards, buffer.responses.spans) - buffer.scores).mean()
    assert found["objective/non_score_reward"] == pytest.approx(paid.item(), abs=1e-6)
    assert found["objective/rlhf_reward"] == pytest.approx(
        span_sum(buffer.rewards, buffer.responses.spans).mean().item(), abs=1e-6
    )


def test_the_entropy_of_the_sample_is_minus_its_log_probability() -> None:
    found, _ = metrics(PPOConfig())
    assert found["objective/entropy"] == pytest.approx((1 + 3.5) / 2)


def test_lengths_and_ends_are_counted_over_responses() -> None:
    found, _ = metrics(PPOConfig())
    assert found["tokens/responses_len_mean"] == 2
    assert found["tokens/responses_len_std"] == 1
    assert found["val/num_eos_tokens"] == 2
    assert torch.isfinite(torch.tensor(list(found.values()))).all()
