"""The loop in the hands of a user: iteration, callbacks, own metrics, files or none, resuming."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import ModelConfig, PPOConfig, SamplingConfig
from rlhf.data.record_set import Prompts
from rlhf.errors import StoppedError, UsageError
from rlhf.models.load_model import load_model
from rlhf.models.policy import POLICY, Policy
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.reward import Reward, RewardFunction
from rlhf.tracking.reader import read_events, read_metrics
from rlhf.training.callbacks import Callback
from tests.ppo.test_golden_run import weights
from tests.ppo.test_trainer import PPO

CONFIG = replace(PPO, iterations=3, critic_warmup_iterations=0, log_samples_every=100)


def length(images: Any, instructions: Any, responses: list[str]) -> list[float]:
    return [float(len(text)) for text in responses]


def vowels(images: Any, instructions: Any, responses: list[str]) -> list[float]:
    return [float(sum(text.count(vowel) for vowel in "aeiou")) for text in responses]


def trainer(
    tiny: Path,
    run_dir: Path | None = None,
    config: PPOConfig = CONFIG,
    reward: Reward | None = None,
    **options: Any,
) -> PPOTrainer:
    model = load_model(tiny / "model", device="cpu")
    policy = Policy.from_model(model, config, ModelConfig(lora_rank=4))
    rows = [
        {"image": tiny / f"pictures/{n:05d}.png", "instruction": f"What is {n}?"} for n in range(8)
    ]
    return PPOTrainer(
        policy,
        reward or RewardFunction(length),
        Prompts.from_list(rows),
        config,
        sampling=SamplingConfig(max_new_tokens=6),
        run_dir=run_dir,
        **options,
    )


class Recorder(Callback):
    """Records what is called, and logs a metric of each iteration."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.calls: list[str] = []
        self.stop_after = stop_after

    def on_rollout(self, trainer: Any, rollout: Any) -> None:
        self.calls.append(f"rollout {len(rollout.responses)}")
        trainer.log({"user/words": 3})

    def on_update(self, trainer: Any, steps: Any) -> None:
        self.calls.append(f"update {len(steps)}")

    def on_iteration(self, trainer: Any, metrics: Any) -> bool:
        self.calls.append(f"iteration {metrics['user/words']:g}")
        trainer.log({"user/double": 2 * metrics["user/words"]})
        return trainer.iteration + 1 < self.stop_after

    def on_save(self, trainer: Any, path: Path) -> None:
        self.calls.append(f"save {path.name}")

    def on_end(self, trainer: Any) -> None:
        self.calls.append("end")


def test_iterating_is_running(tiny: Path) -> None:
    iterated, run = trainer(tiny), trainer(tiny)
    scores = [metrics["objective/scores"] for metrics in iterated]
    last = run.run()
    assert len(scores) == 3 and last["objective/scores"] == scores[-1]
    assert weights(iterated) == weights(run)
    assert list(iterated) == [], "all iterations are done"


def test_a_loop_that_is_left_goes_on_where_it_was(tiny: Path) -> None:
    left, whole = trainer(tiny), trainer(tiny)
    for _ in left:
        break
    assert left.iteration == 1
    left.run()
    whole.run()
    assert left.iteration == 3 and weights(left) == weights(whole)


def test_callbacks_come_in_order_and_end_the_run(tiny: Path, tmp_path: Path) -> None:
    recorder = Recorder(stop_after=2)
    run = trainer(tiny, tmp_path, callbacks=[recorder, Callback()])
    run.run()
    once = ["rollout 8", "update 4", "iteration 3"]
    assert recorder.calls == [*once, *once, "save step-000002", "end"]
    assert run.iteration == 2 and run.done < CONFIG.iterations


def test_own_metrics_stand_beside_the_others(tiny: Path, tmp_path: Path) -> None:
    trainer(tiny, tmp_path, callbacks=[Recorder()]).run()
    assert read_metrics(tmp_path)["user/double"] == [(0, 6.0), (1, 6.0), (2, 6.0)]
    assert read_events(tmp_path)[0]["user/words"] == [(0, 3.0), (1, 3.0), (2, 3.0)]


def test_what_is_logged_once_is_written_once(tiny: Path, tmp_path: Path) -> None:
    class Once(Callback):
        def on_rollout(self, trainer: Any, rollout: Any) -> None:
            if trainer.iteration == 1:
                trainer.log({"user/once": 1.0})

    trainer(tiny, tmp_path, callbacks=[Once()]).run()
    assert read_metrics(tmp_path)["user/once"] == [(1, 1.0)]


@pytest.mark.parametrize("directory", ["run", None])
def test_a_signal_ends_a_run_with_and_without_files(
    tiny: Path, tmp_path: Path, directory: str | None
) -> None:
    class Stopped(Callback):
        def on_rollout(self, trainer: Any, rollout: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    run = trainer(tiny, directory and tmp_path / directory, callbacks=[Stopped()])  # type: ignore[arg-type]
    with pytest.raises(StoppedError) as caught:
        run.run()
    assert caught.value.exit_code == 143 and run.iteration == 1
    saved = [path.name for path in tmp_path.glob("run/checkpoints/step-*")]
    assert saved == (["step-000001"] if directory else [])


@pytest.mark.parametrize("name", ["objective/kl", "words", "user/"])
def test_an_own_metric_has_its_own_prefix(tiny: Path, name: str) -> None:
    with pytest.raises(UsageError, match="begins with user/"):
        trainer(tiny).log({name: 1.0})


def test_callbacks_do_not_change_training(tiny: Path) -> None:
    watched, plain = trainer(tiny, callbacks=[Recorder()]), trainer(tiny)
    watched.run()
    plain.run()
    assert weights(watched) == weights(plain)


def test_each_part_of_a_reward_has_a_curve(tiny: Path, tmp_path: Path) -> None:
    reward = 0.5 * RewardFunction(length) + 2 * RewardFunction(vowels)
    trainer(tiny, tmp_path, replace(CONFIG, missing_eos="none"), reward).run()
    curves = read_metrics(tmp_path)
    parts = [curves[f"scores/{name}"] for name in ("length", "vowels")]
    for (_, total), (_, first), (_, second) in zip(curves["objective/scores"], *parts, strict=True):
        assert total == pytest.approx(0.5 * first + 2 * second, rel=1e-5)
    assert "scores/length" not in trainer(tiny).run(), "one reward has one curve"


def test_unscored_responses_leave_every_curve(tiny: Path) -> None:
    def sometimes(images: Any, instructions: list[str], responses: Any) -> list[float]:
        return [1.0 if text[8] in "01234" else float("nan") for text in instructions]

    reward = RewardFunction(length) + RewardFunction(sometimes, on_failure="drop")
    metrics = trainer(tiny, reward=reward, config=replace(CONFIG, iterations=1)).run()
    assert metrics["rollout/unscored"] == 3
    assert metrics["scores/sometimes"] == 1.0


def test_without_a_directory_no_file_is_written(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = trainer(tiny)
    run.run()
    assert list(tmp_path.iterdir()) == []
    for action in (run.save_checkpoint, run.save, run.resume):
        with pytest.raises(UsageError) as caught:
            action()
        assert caught.value.where == "run_dir=None" and caught.value.fix


def test_a_resumed_run_equals_an_uninterrupted_one(tiny: Path, tmp_path: Path) -> None:
    saving = replace(CONFIG, save_every=1)
    whole, first = trainer(tiny, tmp_path / "whole", saving), trainer(tiny, tmp_path / "x", saving)
    whole.run()
    for _ in first:
        break
    resumed = trainer(tiny, tmp_path / "x", saving)
    resumed.resume()
    resumed.run()
    assert weights(resumed) == weights(whole)
    curves = [read_metrics(tmp_path / name)["objective/scores"] for name in ("whole", "x")]
    assert curves[0] == curves[1]


def test_a_directory_with_another_run_is_refused(tiny: Path, tmp_path: Path) -> None:
    short = replace(CONFIG, iterations=1)
    trainer(tiny, tmp_path, short).run()
    with pytest.raises(UsageError, match="holds the checkpoints"):
        trainer(tiny, tmp_path, short).run()
    with pytest.raises(UsageError, match="other options"):
        trainer(tiny, tmp_path, replace(short, lr=0.5)).resume()


def test_what_is_saved_is_loaded_and_trained_on(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny)
    run.run()
    model = load_model(run.save(tmp_path / "trained"), device="cpu")
    trained = run.policy.trainable_parameters()
    loaded = model.adapters.tensors(POLICY)
    assert all(torch.equal(value, loaded[name]) for name, value in trained.items())
    assert not any(value.requires_grad for value in loaded.values())
    again = PPOTrainer(
        Policy.from_model(model, CONFIG),
        RewardFunction(length),
        run.prompts,
        CONFIG,
        sampling=SamplingConfig(max_new_tokens=6),
    )
    assert again.run()["objective/kl"] != 0
    assert (tmp_path / "trained" / "value_head.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"minibatch_size": 3}, "ppo.minibatch_size"),
        ({"lr": -1.0}, "ppo.lr=-1.0"),
        ({"kl_estimator": "k3"}, "ppo.kl_estimator=k3"),
        ({"critic": "shared"}, "ppo.critic=shared"),
        ({"critic_head": "mlp"}, "ppo.critic_head=mlp"),
        ({"iterations": "many"}, "ppo.iterations"),
        ({"profile": True}, "ppo.profile"),
    ],
)
def test_values_of_python_are_checked_as_those_of_a_command_line(
    tiny: Path, change: dict[str, Any], where: str
) -> None:
    run = trainer(tiny)
    with pytest.raises(UsageError) as caught:
        PPOTrainer(run.policy, run.reward, run.prompts, replace(CONFIG, **change))
    assert where in caught.value.where


def test_the_temperature_is_that_of_the_policy(tiny: Path) -> None:
    run = trainer(tiny)
    with pytest.raises(UsageError, match="temperature"):
        sampling = SamplingConfig(temperature=0.5)
        PPOTrainer(run.policy, run.reward, run.prompts, CONFIG, sampling=sampling)
