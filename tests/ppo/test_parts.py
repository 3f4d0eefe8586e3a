"""PPO in parts on one process: the same mathematics in another order of summation."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.config.schema import Config, ModelConfig, ParallelConfig, PPOConfig
from rlhf.errors import ResourceError
from rlhf.models.policy import build_policy
from rlhf.parallel.world import ALONE
from rlhf.ppo.prompt_parts import PromptParts
from rlhf.ppo.rollout_parts import concatenate_rollouts, gather_rollout, select_rows
from rlhf.ppo.step_metrics import TOKEN_MEANS
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ppo.updater import Updater
from tests.ppo.test_trainer import PPO, trainer
from tests.support import tiny_models


def in_parts(run: PPOTrainer, parts: int) -> PPOTrainer:
    run.run_config = replace(run.run_config, parallel=ParallelConfig(parts=parts))
    return run


def test_the_gradient_of_a_minibatch_is_that_without_parts(tiny: Path) -> None:
    policy = build_policy(tiny_models.load(tiny), ModelConfig(lora_rank=4), temperature=1.0)
    policy.llava.model.double()
    batch = tiny_models.minibatch_of(policy, tiny)
    results = []
    for count in (1, 2, 3, 4, 6):
        config = PPOConfig(lr=1e-12, max_grad_norm=1e9, critic_fit="gradient")
        updater = Updater(config, policy, steps=1)
        parts = PromptParts.split(batch.prompts.sampling_keys, count)
        metrics = updater.step(batch, train_policy=True, parts=parts)
        parameters = [*updater.policy_parameters, *updater.critic_parameters]
        grads = [value.grad.clone() for value in parameters if value.grad is not None]
        assert metrics.outcome == "taken"
        results.append(([getattr(metrics, name) for name in TOKEN_MEANS], grads))
    (expected, grads), *others = results
    assert max(float(grad.abs().max()) for grad in grads) > 1e-4
    for means, other_grads in others:
        assert means == pytest.approx(expected, rel=1e-5, abs=1e-6)
        for grad, other in zip(grads, other_grads, strict=True):
            torch.testing.assert_close(grad, other, atol=1e-6, rtol=1e-5)


def test_the_responses_do_not_depend_on_the_parts(tiny: Path, tmp_path: Path) -> None:
    whole = trainer(tiny, tmp_path).rollout(1)
    cut = in_parts(trainer(tiny, tmp_path), 4).rollout(1)
    assert torch.equal(whole.responses.tokens, cut.responses.tokens)
    assert whole.prompts.instructions == cut.prompts.instructions
    torch.testing.assert_close(whole.values, cut.values, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.scores, cut.scores, atol=1e-5, rtol=0)


def test_a_run_in_parts_trains_every_response_and_freezes_the_policy_in_warmup(
    tiny: Path, tmp_path: Path
) -> None:
    run = in_parts(trainer(tiny, tmp_path), 4)
    before = {k: x.detach().clone() for k, x in run.policy.trainable_parameters().items()}
    run.step(0)
    assert all(torch.equal(before[k], x) for k, x in run.policy.trainable_parameters().items())
    metrics = run.step(1)
    assert any(not torch.equal(before[k], x) for k, x in run.policy.trainable_parameters().items())
    assert metrics["val/first_step_ratio_gap"] < 1e-5
    assert metrics["val/ratio"] == pytest.approx(1, abs=0.2)


def test_more_parts_than_prompts_leave_some_empty(tiny: Path, tmp_path: Path) -> None:
    run = in_parts(trainer(tiny, tmp_path), 16)
    assert len(run.rollout(0).responses) == PPO.rollout_batch_size
    assert run.step(0)["rollout/unscored"] == 0


def test_rows_of_a_rollout_are_selected_and_joined_again(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(PPO, missing_eos="bootstrap"))
    rollout = run.rollout(0)
    parts = [select_rows(rollout, torch.tensor(rows)) for rows in ([0, 1, 2], [3], [4, 5, 6, 7])]
    joined = concatenate_rollouts(parts)
    for name in ("old_logprobs", "values", "scores", "final_values", "logprob_diff"):
        assert torch.equal(getattr(joined, name), getattr(rollout, name)), name
    assert joined.prompts.images == rollout.prompts.images
    none = select_rows(rollout, torch.zeros(0, dtype=torch.int64))
    assert concatenate_rollouts([none, *parts]).responses.rows() == rollout.responses.rows()
    with pytest.raises(ResourceError, match="lacks a score"):
        gather_rollout(none, rollout.prompts, ALONE, "scorer")


def test_the_parts_are_stored_and_one_by_default(tiny: Path, tmp_path: Path) -> None:
    assert Config().parallel.parts == 0
    assert trainer(tiny, tmp_path).run_config.parallel.parts == 1
