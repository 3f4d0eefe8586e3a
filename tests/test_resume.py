"""A restored trainer is the saved one: each part by itself, so that none goes missing unseen."""

from pathlib import Path

import msgspec
import pytest
import torch
from test_ppo import PPO, trainer

from rlhf.checkpoint import load_checkpoint, optimizer_tensors
from rlhf.trainers.ppo import PPOTrainer


@pytest.fixture
def saved_and_restored(tiny: Path, tmp_path: Path) -> tuple[PPOTrainer, PPOTrainer]:
    once = msgspec.structs.replace(
        PPO, iterations=1, value_warmup_iterations=0, lr_schedule="linear"
    )
    saved = trainer(tiny, tmp_path, once)
    saved.run()
    restored = trainer(tiny, tmp_path, once)
    restored.restore(load_checkpoint(tmp_path / "checkpoints"))
    return saved, restored


def test_every_part_of_the_training_state_is_restored(
    saved_and_restored: tuple[PPOTrainer, PPOTrainer],
) -> None:
    saved, restored = saved_and_restored
    assert saved.iteration == restored.iteration == 1
    assert saved.updater.steps_done == restored.updater.steps_done == 4
    heads = [run.policy.value_head.linear.weight for run in (saved, restored)]
    assert torch.equal(*heads) and float(heads[0].detach().abs().max()) > 0
    trained = [run.policy.trained() for run in (saved, restored)]
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())
    moments = [optimizer_tensors(run.updater.optimizer)[0] for run in (saved, restored)]
    assert moments[0].keys() == moments[1].keys() and moments[0]
    assert all(torch.equal(value, moments[1][name]) for name, value in moments[0].items())
