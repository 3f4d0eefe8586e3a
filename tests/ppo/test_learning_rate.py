"""Learning rates of a whole run: none moves nothing, one that is large enough learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf.tracking.reader import read_metrics
from tests.ppo.test_trainer import PPO, trainer


def test_learning_rate_zero_leaves_every_ratio_at_one(tiny: Path, tmp_path: Path) -> None:
    ppo = replace(PPO, lr=1e-30)
    run = trainer(tiny, tmp_path, ppo)
    run.run()
    metrics = read_metrics(tmp_path)
    assert max(value for _, value in metrics["policy/approxkl_avg"]) < 1e-10
    assert max(value for _, value in metrics["policy/clipfrac_avg"]) == 0
    assert max(abs(value - 1) for _, value in metrics["val/ratio"]) < 1e-5


def test_scores_rise_towards_the_rewarded_direction(tiny: Path, tmp_path: Path) -> None:
    """Scores are in standard deviations of a random token's worth, so they begin near 0.

    The model's output embeddings are so small that no hidden state can bring more than about 0.6.
    """
    ppo = replace(PPO, iterations=20, rollout_batch_size=32, minibatch_size=16, missing_eos="none")
    trainer(tiny, tmp_path, ppo).run()
    scores = [value for _, value in read_metrics(tmp_path)["objective/scores"]]
    assert abs(scores[0]) < 0.2
    assert sum(scores[-5:]) / 5 > 0.4


def test_the_learning_rate_follows_the_planned_steps_although_target_kl_cuts_some_off(
    tiny: Path, tmp_path: Path
) -> None:
    """Every iteration plans 4 steps and takes 1: the rate still falls to 0 by the plan."""
    falling = replace(PPO, lr_schedule="linear", target_kl=1e-12, critic_warmup_iterations=0)
    run = trainer(tiny, tmp_path, falling)
    rates: list[float] = []
    step = run.updater.step

    def listened(*args: Any, **kwargs: Any) -> Any:
        rates.append(run.updater.lr)
        return replace(step(*args, **kwargs), outcome="stopped")

    run.updater.step = listened  # type: ignore[method-assign]
    run.run()
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    assert [lr for _, lr in read_metrics(tmp_path)["lr"]] == pytest.approx(
        [0.75e-3, 0.5e-3, 0.25e-3, 0], abs=1e-9
    )
