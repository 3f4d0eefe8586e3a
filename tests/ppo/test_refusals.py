"""What is broken stops the trainer, by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf.errors import DivergedError, UsageError
from rlhf.models.vision.feature_cache import ImageFeatures
from rlhf.ppo.sanity_checks import assert_sane, measure_sanity_checks
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ppo.updater import Updater
from tests.ppo.test_trainer import PPO, trainer


def test_too_many_steps_that_are_not_finite_stop_the_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tiny, tmp_path, replace(PPO, max_skipped_steps=2))
    policy_loss = Updater._policy_loss

    def poisoned(*args: Any) -> Any:
        loss, metrics = policy_loss(*args)
        return loss * float("nan"), metrics

    monkeypatch.setattr(Updater, "_policy_loss", poisoned)
    initial = {name: value.clone() for name, value in run.policy.trainable_parameters().items()}
    with pytest.raises(DivergedError, match="3 optimizer steps"):
        run.run()
    assert "returns" in load_file(tmp_path / "diverged.safetensors")
    assert all(torch.equal(initial[k], v) for k, v in run.policy.trainable_parameters().items())


def test_a_score_that_is_no_number_stops_the_run_by_name(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(PPO, save_every=1, sanity_checks=False))
    run.iteration = 1
    run.save_checkpoint()
    run.reward.std = float("nan")  # type: ignore[attr-defined]
    with pytest.raises(DivergedError, match="not finite in a rollout: scores"):
        run.run()
    assert run.iteration == 1


def broken(tiny: Path, tmp_path: Path, name: str) -> PPOTrainer:
    run = trainer(tiny, tmp_path)
    policy = run.policy
    if name == "against the reference":
        with torch.no_grad():
            for value in policy.trainable_parameters().values():
                value.add_(0.1)
    elif name == "another image":
        run.reward.head.linear.weight.data.zero_()  # type: ignore[attr-defined]
    elif name == "frozen parameters":
        policy.llava.model.lm_head.requires_grad_(True)
    elif name == "by the cache":
        vision = policy.llava.vision
        tiles, size = vision.encode(run.prompts.images[0][0])
        for image in run.prompts.images:
            vision.cache.put(image[0], ImageFeatures(tiles + 1, size))
    return run


@pytest.mark.parametrize(
    "name", ["against the reference", "another image", "frozen parameters", "by the cache"]
)
def test_a_broken_set_up_is_refused_by_name(tiny: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        broken(tiny, tmp_path, name).run()


@pytest.mark.parametrize(("change", "holds"), [(3e-7, True), (1e-4, False)])
def test_features_of_another_cpu_may_differ_by_rounding_only(
    tiny: Path, tmp_path: Path, change: float, holds: bool
) -> None:
    run = trainer(tiny, tmp_path)
    vision = run.policy.llava.vision
    for (image,) in run.prompts.images:
        tiles, size = vision.encode(image)
        vision.cache.put(image, ImageFeatures(tiles * (1 + change * torch.randn_like(tiles)), size))
    found = measure_sanity_checks(run.policy, run.reward, run.rollout(0), run.config)
    assert {check.name for check in found if not check.holds} == (
        set() if holds else {"relative change of the image features by the cache"}
    )


def test_a_ratio_away_from_one_is_refused(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path)
    rollout = run.rollout(0)
    checks = measure_sanity_checks(run.policy, run.reward, rollout, run.config)
    assert all(check.holds for check in checks)
    assert len(checks) == 7
    shifted = replace(rollout, old_logprobs=rollout.old_logprobs + 0.01)
    with pytest.raises(UsageError, match="ratio - 1"):
        assert_sane(measure_sanity_checks(run.policy, run.reward, shifted, run.config))
