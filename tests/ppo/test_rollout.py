"""Rollouts with a scorer that cannot score every response."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf.config.schema import ModelConfig, PPOConfig, SamplingConfig
from rlhf.errors import ResourceError
from rlhf.models.policy import build_policy
from rlhf.parallel.world import ALONE
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.rollout import collect_rollout
from rlhf.ppo.rollout_parts import gather_rollout
from rlhf.types import PromptBatch, Responses, Rollout
from tests.support import tiny_models

CONFIG = PPOConfig(rollout_batch_size=8, minibatch_size=4, microbatch_tokens=9999)


class PartialScorer:
    """Scores a response by its row; those of `lost` have none."""

    name, can_fail = "forgetful", True

    def __init__(self, *lost: int) -> None:
        self.lost = lost

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        scores = torch.arange(len(responses)).float()
        scores[list(self.lost)] = float("nan")
        return scores


def rollout_of(tiny: Path, scorer: PartialScorer, config: PPOConfig = CONFIG) -> Rollout:
    """Eight responses; with several samples a prompt, the rows of a prompt follow one another."""
    llava = tiny_models.load(tiny)
    torch.manual_seed(0)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    samples_per_prompt = config.samples_per_prompt
    prompts = tiny_models.prompts_of(llava, tiny, 8 // samples_per_prompt)
    rows = torch.arange(8 // samples_per_prompt).repeat_interleave(samples_per_prompt)
    batch = prompts.select(rows)
    rollout = collect_rollout(
        policy,
        scorer,
        batch,
        SamplingConfig(max_new_tokens=6),
        seed=0,
        iteration=0,
        samples=torch.arange(samples_per_prompt).repeat(8 // samples_per_prompt),
        config=config,
    )
    return gather_rollout(rollout, batch, ALONE, scorer.name)


def test_a_response_without_a_score_is_dropped_and_nothing_else_changes(tiny: Path) -> None:
    complete = rollout_of(tiny, PartialScorer())
    partial = rollout_of(tiny, PartialScorer(2, 5))
    scored_rows = torch.tensor([0, 1, 3, 4, 6, 7])
    tokens = complete.spans.token_indices(scored_rows)
    assert partial.scores.tolist() == scored_rows.tolist()
    assert torch.equal(partial.responses.tokens, complete.responses.tokens[tokens])
    assert partial.prompts.instructions == complete.prompts.select(scored_rows).instructions
    for name in ("old_logprobs", "ref_logprobs", "values", "entropy", "logprob_diff"):
        torch.testing.assert_close(
            getattr(partial, name), getattr(complete, name)[tokens], atol=1e-5, rtol=0
        )
    buffer = RolloutBuffer()
    buffer.append(partial)
    buffer.finish(CONFIG)
    sizes = [len(part.responses) for part in buffer.minibatches(4, torch.Generator())]
    assert sizes == [4, 2]


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_a_group_loses_all_its_responses_with_one(tiny: Path, advantage: str) -> None:
    """Rows 0-3 answer the first prompt, rows 4-7 the second."""
    config = replace(CONFIG, advantage_estimator=advantage, samples_per_prompt=4)
    rollout = rollout_of(tiny, PartialScorer(6), config)
    assert rollout.scores.tolist() == [0, 1, 2, 3]
    buffer = RolloutBuffer()
    buffer.append(rollout)
    buffer.finish(config)
    assert torch.isfinite(buffer.advantages).all()


def test_an_iteration_that_loses_every_group_stops_the_run(tiny: Path) -> None:
    config = replace(CONFIG, advantage_estimator="rloo", samples_per_prompt=2)
    with pytest.raises(ResourceError, match="lacks a score") as caught:
        rollout_of(tiny, PartialScorer(0, 2, 4, 6), config)
    assert caught.value.where == "forgetful" and caught.value.exit_code == 5
