"""A restored trainer is the saved one: each part by itself, so that none goes missing unseen."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.ppo.trainer import PPOTrainer
from rlhf.storage.checkpoint import load_checkpoint, optimizer_tensors
from tests.ppo.test_trainer import PPO, trainer


@pytest.fixture
def saved_and_restored(tiny: Path, tmp_path: Path) -> tuple[PPOTrainer, PPOTrainer]:
    one_update = replace(
        PPO,
        iterations=1,
        critic_warmup_iterations=0,
        lr_schedule="linear",
        normalize_scores=True,
        adaptive_kl_target=6.0,
    )
    saved = trainer(tiny, tmp_path, one_update)
    saved.run()
    saved.updater.skipped_steps = 3
    saved.save_checkpoint()
    restored = trainer(tiny, tmp_path, one_update)
    restored.restore(load_checkpoint(tmp_path / "checkpoints"))
    return saved, restored


def test_every_part_of_the_training_state_is_restored(
    saved_and_restored: tuple[PPOTrainer, PPOTrainer],
) -> None:
    saved, restored = saved_and_restored
    assert saved.iteration == restored.iteration == 1
    assert saved.updater.steps_done == restored.updater.steps_done == 4
    assert restored.updater.skipped_steps == 3
    assert restored.health.state_dict() == saved.health.state_dict()
    assert saved.scaler and restored.scaler
    assert restored.scaler.state_dict() == saved.scaler.state_dict()
    values = [run.value_function for run in (saved, restored)]
    assert values[0] and values[1] and values[0].state_dict() == values[1].state_dict()
    assert len(values[0].explained_variance.state_dict()["total"]) == 1
    assert restored.updater.kl_coef == saved.updater.kl_coef < PPO.kl_coef
    heads = [run.policy.critic.head.states.linear.weight for run in (saved, restored)]
    assert torch.equal(*heads) and float(heads[0].detach().abs().max()) > 0
    trained = [run.policy.trainable_parameters() for run in (saved, restored)]
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())
    moments = [optimizer_tensors(run.updater.optimizer)[0] for run in (saved, restored)]
    assert moments[0].keys() == moments[1].keys() and moments[0]
    assert all(torch.equal(value, moments[1][name]) for name, value in moments[0].items())


def test_options_given_at_a_resume_count(tiny: Path, tmp_path: Path) -> None:
    trainer(tiny, tmp_path, replace(PPO, iterations=1)).run()
    changed = replace(PPO, kl_coef=0.2, normalize_scores=True)
    restored = trainer(tiny, tmp_path, changed)
    restored.restore(load_checkpoint(tmp_path / "checkpoints"))
    assert restored.updater.kl_coef == 0.2
    assert restored.scaler and restored.scaler.count == 0
