"""The held-out judge: it scores the very responses of the rollout, and changes nothing else."""

import shutil
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import Config, ModelConfig, ParallelConfig, PPOConfig, SamplingConfig
from rlhf.errors import ResourceError, UsageError
from rlhf.models.load_model import load_model
from rlhf.models.policy import Policy
from rlhf.parallel.world import World
from rlhf.ppo.batch_sizes import limit_prefill
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.rewards.reward import Reward, RewardFunction, load_reward
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.training.callbacks import Callback
from tests.ppo.test_loop import length, vowels
from tests.ppo.test_loop import trainer as loop_trainer
from tests.ppo.test_processes import Recorder, result
from tests.ppo.test_trainer import PPO
from tests.support import reward_models as kit
from tests.support import tiny_models
from tests.support.processes import on_processes
from tests.support.tiny_models import timeless_curves

CONFIG = replace(PPO, iterations=2, critic_warmup_iterations=0, log_samples_every=100)


class Texts(Callback):
    """The responses of each rollout, as text."""

    def __init__(self) -> None:
        self.rollouts: list[list[str]] = []

    def on_rollout(self, trainer: Any, rollout: Any) -> None:
        decode = trainer.policy.llava.builder.decode
        self.rollouts.append([decode(row) for row in rollout.responses.rows()])


def all_but_first(images: Any, instructions: Any, responses: list[str]) -> list[float]:
    """The length of every response but the first of each call, which has no score."""
    return [nan, *(float(len(text)) for text in responses[1:])]


def judge_curve(run: PPOTrainer) -> list[float]:
    return [metrics["val/judge_scores"] for metrics in run]


def mean_lengths(rollouts: list[list[str]]) -> list[float]:
    return [sum(map(len, texts)) / len(texts) for texts in rollouts]


def test_the_metric_is_the_mean_score_of_the_responses_that_are_trained_on(tiny: Path) -> None:
    texts = Texts()
    run = loop_trainer(
        tiny, None, CONFIG, RewardFunction(vowels), judge=RewardFunction(length), callbacks=[texts]
    )
    assert judge_curve(run) == pytest.approx(mean_lengths(texts.rollouts), rel=1e-6)


def test_a_response_that_the_judge_cannot_score_is_left_out_of_the_mean_only(tiny: Path) -> None:
    texts = Texts()
    judge = RewardFunction(all_but_first, on_failure="drop")
    run = loop_trainer(tiny, None, CONFIG, RewardFunction(vowels), judge=judge, callbacks=[texts])
    curve = judge_curve(run)
    assert [len(rollout) for rollout in texts.rollouts] == [8, 8]
    judged = [rollout[1:] for rollout in texts.rollouts]
    assert curve == pytest.approx(mean_lengths(judged), rel=1e-6)


def test_a_response_without_a_score_is_left_out_of_the_mean_of_the_judge(tiny: Path) -> None:
    texts = Texts()
    reward = RewardFunction(all_but_first, on_failure="drop")
    judge = RewardFunction(length)
    run = loop_trainer(tiny, None, CONFIG, reward, judge=judge, callbacks=[texts])
    curve = judge_curve(run)
    assert [len(rollout) for rollout in texts.rollouts] == [7, 7]
    assert curve == pytest.approx(mean_lengths(texts.rollouts), rel=1e-6)


def test_a_judge_that_fails_ends_the_run_as_a_scorer_does(tiny: Path) -> None:
    judge = RewardFunction(all_but_first, name="broken")
    with pytest.raises(ResourceError, match="not finite") as error:
        loop_trainer(tiny, None, CONFIG, judge=judge).run()
    assert "broken" in str(error.value)


def saved_model(tiny: Path, directory: Path, seed: int, **facts: Any) -> Path:
    """A saved reward model with a LoRA and a head that are random."""
    torch.manual_seed(seed)
    model = kit.build(tiny_models.load(tiny), kit.options("llava_head"))
    kit.shake(model)
    with torch.no_grad():
        for value in model.adapters.tensors("reward").values():
            value.add_(torch.randn_like(value) * 0.1)
    kit.save(model, directory, **facts)
    return directory


def model_trainer(
    tiny: Path, reward: Any, judge: Any, run_dir: Path | None = None, config: PPOConfig = CONFIG
) -> PPOTrainer:
    llava = load_model(tiny / "model", device="cpu")
    policy = Policy.from_model(llava, config, ModelConfig(lora_rank=4))
    prompts, sampling = tiny_models.prompts_of(llava, tiny, 8), SamplingConfig(max_new_tokens=6)
    return PPOTrainer(
        policy, reward, prompts, config, judge=judge, sampling=sampling, run_dir=run_dir
    )


def test_a_judge_changes_nothing_of_the_training(tiny: Path, tmp_path: Path) -> None:
    """Both reward models are adapters on the base model of the policy."""
    reward, judge = saved_model(tiny, tmp_path / "a", 1), saved_model(tiny, tmp_path / "b", 2)
    runs = [
        model_trainer(tiny, load_reward(reward), other, tmp_path / name)
        for name, other in (("with", load_reward(judge)), ("without", None))
    ]
    for run in runs:
        run.run()
    judged, plain = (
        timeless_curves(tmp_path / name / "metrics.jsonl") for name in ("with", "without")
    )
    assert [float.fromhex(step.pop("val/judge_scores")) for step in judged] != [0.0, 0.0]
    assert judged == plain
    assert isinstance(runs[0].judge, LlavaReward)
    assert runs[0].judge.llava is runs[0].policy.llava
    parameters = [run.policy.trainable_parameters() for run in runs]
    assert all(torch.equal(value, parameters[1][name]) for name, value in parameters[0].items())


def test_a_model_judges_as_it_scores_alone(tiny: Path, tmp_path: Path) -> None:
    reward, judge = saved_model(tiny, tmp_path / "a", 1), saved_model(tiny, tmp_path / "b", 2)
    run = model_trainer(tiny, load_reward(reward), load_reward(judge))
    rollout = run.rollout(0)
    alone = load_reward(judge).scorer(tiny_models.load(tiny), share_base_model=True)
    expected = alone.scores(rollout.prompts, rollout.responses, max_tokens=9999)
    assert rollout.judge_scores is not None
    torch.testing.assert_close(rollout.judge_scores, expected)
    assert not torch.allclose(rollout.judge_scores, rollout.scores)


def test_memory_is_limited_in_the_model_of_the_judge_too(tiny: Path, tmp_path: Path) -> None:
    own = load_reward(saved_model(tiny, tmp_path, 1)).scorer(tiny_models.load(tiny))
    run = model_trainer(tiny, RewardFunction(length), own)
    limit_prefill(run.policy, run.scorers, 64)
    assert run.judge is own and own.llava is not run.policy.llava  # type: ignore[attr-defined]
    assert own.llava.max_prefill_tokens == 64  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["function", "part", "saved", "copied"])
def test_a_judge_that_is_the_reward_is_refused(tiny: Path, tmp_path: Path, name: str) -> None:
    saved = saved_model(tiny, tmp_path / "a", 1)
    shutil.copytree(saved, tmp_path / "copy")
    reward: Reward = RewardFunction(length)
    pairs: dict[str, tuple[Reward, Reward]] = {
        "function": (RewardFunction(length), RewardFunction(length, "again")),
        "part": (0.5 * reward + RewardFunction(vowels), reward),
        "saved": (load_reward(saved), load_reward(saved)),
        "copied": (load_reward(saved), load_reward(tmp_path / "copy")),
    }
    with pytest.raises(UsageError, match="the judge is the reward itself") as error:
        model_trainer(tiny, *pairs[name])
    assert "--judge=" in error.value.fix


def test_pairs_that_both_learnt_from_are_said(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"a": "1", "same": "1", "other": "2"}
    models = {
        name: load_reward(saved_model(tiny, tmp_path / name, seed, training={"file": file}))
        for seed, (name, file) in enumerate(files.items())
    }
    for name, said in (("other", False), ("same", True)):
        model_trainer(tiny, models["a"], models[name])
        assert ("learnt from the same pairs" in capsys.readouterr().out) == said


def test_a_resumed_run_goes_on_with_its_judge(tiny: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, iterations=3, save_every=1)
    options = {"reward": RewardFunction(vowels), "judge": RewardFunction(length)}
    loop_trainer(tiny, tmp_path / "whole", config, **options).run()
    for _ in loop_trainer(tiny, tmp_path / "cut", config, **options):
        break
    resumed = loop_trainer(tiny, tmp_path / "cut", config, **options)
    resumed.restore(load_checkpoint(tmp_path / "cut/checkpoints"))
    assert resumed.iteration == 1
    resumed.run()
    whole, cut = (timeless_curves(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut"))
    assert cut == whole and all("val/judge_scores" in step for step in whole)


@pytest.mark.parametrize("now", [None, RewardFunction(vowels)])
def test_a_run_keeps_its_judge(tiny: Path, tmp_path: Path, now: Reward | None) -> None:
    loop_trainer(
        tiny, tmp_path, CONFIG, judge=RewardFunction(all_but_first, on_failure="drop")
    ).run()
    other = loop_trainer(tiny, tmp_path, CONFIG, judge=now)
    with pytest.raises(UsageError, match="began with the judge all_but_first") as error:
        other.restore(load_checkpoint(tmp_path / "checkpoints"))
    assert ("vowels" if now else "no judge") in error.value.where


def test_the_head_of_the_judge_belongs_to_the_run(tiny: Path, tmp_path: Path) -> None:
    judge = load_reward(saved_model(tiny, tmp_path / "a", 1))
    model_trainer(tiny, RewardFunction(length), judge, tmp_path / "run").run()
    resumed = model_trainer(tiny, RewardFunction(length), judge, tmp_path / "run")
    torch.nn.init.normal_(resumed.judge.head.linear.weight)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="the judge is not the one this run began with"):
        resumed.restore(load_checkpoint(tmp_path / "run/checkpoints"))


def parts_run(world: World, tiny: Path, directory: Path) -> dict[str, Any]:
    """What a run in four parts computes; some responses have no score, others are not judged."""
    config = replace(CONFIG, rollout_batch_size=16, minibatch_size=8, sanity_checks=False)
    sampling = SamplingConfig(max_new_tokens=6)
    llava = tiny_models.load(tiny)
    run = PPOTrainer(
        Policy.from_model(llava, config, ModelConfig(lora_rank=4)),
        RewardFunction(vowels),
        tiny_models.prompts_of(llava, tiny, 8),
        config,
        judge=RewardFunction(all_but_first, on_failure="drop"),
        sampling=sampling,
        callbacks=[Recorder()],
        run_dir=directory,
        run_config=Config(ppo=config, sampling=sampling, parallel=ParallelConfig(parts=4)),
        world=world,
    )
    run.run()
    return result(run)


def test_the_judge_is_the_same_on_two_processes(tiny: Path, tmp_path: Path) -> None:
    expected = parts_run(World(), tiny, tmp_path / "1")
    assert all("val/judge_scores" in metrics for metrics in expected["metrics"])
    for got in on_processes(2, parts_run, tiny, tmp_path / "2"):
        assert got == expected
