"""From scores to advantages, on numbers small enough to work by hand."""

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.config.option_types import defaults
from rlhf.config.schema import PPOConfig
from rlhf.config.validation import load_config
from rlhf.errors import UsageError
from rlhf.functional import ADVANTAGE_ESTIMATORS, AdvantageInputs, ScoreScaler, advantage_estimator
from rlhf.kernels import span_discounted_sum
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses, Rollout


def rollout(finished: tuple[bool, bool] = (True, True), shift: int = 0) -> Rollout:
    """Two responses of 1 and 3 tokens."""
    spans = Spans.from_lengths([1, 3])
    prompts = PromptBatch(
        tokens=torch.arange(5) + shift,
        spans=Spans.from_lengths([2, 3]),
        images=((Path("a.png"),), (Path("b.png"),)),
        sampling_keys=torch.tensor([1, 2]) + shift,
        instructions=("one", "two"),
    )
    return Rollout(
        prompts=prompts,
        responses=Responses(torch.arange(4) + shift, spans, torch.tensor(finished)),
        old_logprobs=torch.tensor([-1.0, -2.0, -1.0, -0.5]),
        ref_logprobs=torch.tensor([-1.5, -1.0, -1.0, -1.5]),
        values=torch.tensor([0.5, 1.0, 0.0, 2.0]),
        entropy=torch.zeros(4),
        scores=torch.tensor([3.0, -1.0]),
        logprob_diff=torch.zeros(4),
    )


PLAIN = PPOConfig(kl_coef=0.1, gae_lambda=0.5, gae_lambda_value=1.0, whiten_advantages=False)


def test_rewards_are_minus_kl_with_the_score_on_the_last_token() -> None:
    buffer = RolloutBuffer()
    buffer.append(rollout())
    buffer.finish(PLAIN)
    # log π - log π_ref is 0.5 | -1, 0, 1; a tenth of it is taken away, the score comes last.
    torch.testing.assert_close(buffer.rewards, torch.tensor([2.95, 0.1, 0.0, -1.1]))


def test_advantages_and_targets_use_their_own_lambda() -> None:
    buffer = RolloutBuffer()
    buffer.append(rollout())
    buffer.finish(PLAIN)
    # δ = 2.45 | 0.1+0-1 = -0.9, 0+2-0 = 2, -1.1-2 = -3.1;  A = δ + A'/2 backwards.
    torch.testing.assert_close(buffer.advantages, torch.tensor([2.45, -0.675, 0.45, -3.1]))
    # λ = 1: the returns are the sums of the rewards still to come.
    torch.testing.assert_close(buffer.returns, torch.tensor([2.95, -1.0, -1.1, -1.1]))


def test_a_cut_response_pays_the_penalty_and_a_finished_one_does_not() -> None:
    buffer = RolloutBuffer()
    buffer.append(rollout(finished=(True, False)))
    buffer.finish(PLAIN)
    torch.testing.assert_close(buffer.scores, torch.tensor([3.0, -2.0]))
    torch.testing.assert_close(buffer.rewards, torch.tensor([2.95, 0.1, 0.0, -2.1]))


def test_whitening_is_over_all_tokens_of_all_rollouts() -> None:
    buffer = RolloutBuffer()
    buffer.append(rollout())
    buffer.append(rollout(shift=10))
    buffer.finish(PPOConfig(kl_coef=0.1, gae_lambda=0.5))
    assert len(buffer.advantages) == 8
    assert abs(float(buffer.advantages.mean())) < 1e-6
    assert abs(float(buffer.advantages.std(correction=0)) - 1) < 1e-6


def finished_buffer(config: PPOConfig, *rollouts: Rollout, scaler: ScoreScaler | None = None):  # noqa: ANN201
    buffer = RolloutBuffer()
    for part in rollouts:
        buffer.append(part)
    buffer.finish(config, scaler)
    return buffer


def test_with_the_kl_in_the_loss_the_reward_is_the_score_alone() -> None:
    plain = replace(PLAIN, kl_placement="loss")
    buffer = finished_buffer(plain, rollout())
    assert buffer.rewards.tolist() == [3.0, 0.0, 0.0, -1.0]
    white = finished_buffer(replace(plain, whiten_advantages=True), rollout())
    assert torch.equal(white.advantages, buffer.advantages)  # kl_coef keeps its meaning
    assert buffer.kl.tolist() == [0.5, -1.0, 0.0, 1.0]
    (batch,) = buffer.minibatches(2, torch.Generator().manual_seed(0))
    assert sorted(batch.ref_logprobs.tolist()) == [-1.5, -1.5, -1.0, -1.0]


def test_a_cut_response_is_bootstrapped_and_pays_no_penalty() -> None:
    plain = replace(PLAIN, missing_eos="bootstrap")
    cut = dataclasses.replace(
        rollout(finished=(True, False)), final_values=torch.tensor([0.0, 4.0])
    )
    buffer = finished_buffer(plain, cut)
    assert buffer.scores.tolist() == [3.0, -1.0]
    # As above with 4 more at the end: the last δ is 0.9, and A = δ + A'/2 backwards.
    torch.testing.assert_close(buffer.advantages, torch.tensor([2.45, 0.325, 2.45, 0.9]))
    torch.testing.assert_close(buffer.returns, torch.tensor([2.95, 3.0, 2.9, 2.9]))


@pytest.mark.parametrize(
    ("advantage", "first"),
    [("rloo", 3.95), ("grpo", 3.95 / (3.95 / 2**0.5 + 1e-4) / 2)],
)
def test_group_relative_advantages_are_the_responses_own_at_each_token(
    advantage: str, first: float
) -> None:
    # Totals, KL included: 2.95 and -1.0, both answers to one prompt.
    plain = replace(PLAIN, advantage_estimator=advantage, whiten_advantages=True)
    equal_scores = rollout()
    equal_scores = dataclasses.replace(
        equal_scores,
        prompts=dataclasses.replace(equal_scores.prompts, sampling_keys=torch.tensor([7, 7])),
    )
    got = finished_buffer(plain, equal_scores).advantages
    torch.testing.assert_close(got, torch.tensor([first, -first, -first, -first]))
    assert not finished_buffer(plain, rollout()).advantages.any()  # two prompts, two groups of one


@pytest.fixture
def toy_estimator() -> Iterator[str]:
    """An estimator that a user enters in the table: the rewards still to come, without a critic."""

    @advantage_estimator("toy", needs_critic=False, needs_groups=False)
    def rewards_to_come(inputs: AdvantageInputs) -> torch.Tensor:
        return span_discounted_sum(inputs.rewards, inputs.spans, inputs.gamma)

    yield "toy"
    del ADVANTAGE_ESTIMATORS["toy"]


def test_a_registered_estimator_is_all_that_a_buffer_and_the_configuration_need(
    toy_estimator: str,
) -> None:
    """No file of the package is edited: the decorated function is the whole estimator."""
    values = defaults()
    values["ppo"] |= {"advantage_estimator": toy_estimator, "kl_coef": 0.1}
    config = replace(load_config(values).ppo, whiten_advantages=False)
    got = finished_buffer(config, rollout()).advantages
    torch.testing.assert_close(got, torch.tensor([2.95, -1.0, -1.1, -1.1]))
    white = finished_buffer(replace(config, whiten_advantages=True), rollout()).advantages
    assert abs(float(white.mean())) < 1e-6
    values["ppo"] |= {"missing_eos": "bootstrap"}
    with pytest.raises(UsageError, match="toy has no critic"):
        load_config(values)


def test_scores_are_scaled_before_the_penalty() -> None:
    scaler = ScoreScaler(clip=1.0)
    buffer = finished_buffer(PLAIN, rollout(finished=(True, False)), scaler=scaler)
    assert buffer.scores.tolist() == [1.0, -1.5]  # 3 and -1 over their std 2, clipped, then -1
    assert scaler.count == 2


def test_lambda_by_length() -> None:
    """α = ½: λ is 0 for one token, 1/3 for three."""
    plain = replace(PLAIN, gae_lambda_alpha=0.5)
    got = finished_buffer(plain, rollout()).advantages
    # δ = 2.45 | -0.9, 2, -3.1
    expected = torch.tensor([2.45, -0.9 + (2 - 3.1 / 3) / 3, 2 - 3.1 / 3, -3.1])
    torch.testing.assert_close(got, expected)


def test_minibatches_hold_every_response_once_and_keep_its_tokens_together() -> None:
    buffer = RolloutBuffer()
    buffer.append(rollout())
    buffer.append(rollout(shift=10))
    buffer.finish(PLAIN)
    batches = list(buffer.minibatches(1, torch.Generator().manual_seed(0)))
    assert len(batches) == 4
    seen = {}
    for batch in batches:
        seen[int(batch.prompts.sampling_keys[0])] = (
            batch.responses.tokens.tolist(),
            batch.old_logprobs.tolist(),
        )
    assert seen == {
        1: ([0], [-1.0]),
        2: ([1, 2, 3], [-2.0, -1.0, -0.5]),
        11: ([10], [-1.0]),
        12: ([11, 12, 13], [-2.0, -1.0, -0.5]),
    }


def test_the_order_is_a_function_of_the_generator() -> None:
    buffer = RolloutBuffer()
    for shift in range(0, 80, 10):
        buffer.append(rollout(shift=shift))
    buffer.finish(PLAIN)

    def order(seed: int) -> list[int]:
        batches = buffer.minibatches(1, torch.Generator().manual_seed(seed))
        return [int(batch.prompts.sampling_keys[0]) for batch in batches]

    assert order(1) == order(1) != order(2)
