"""Training of a sharded reward model: that of a whole one."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import Config, ModelConfig, ParallelConfig
from rlhf.errors import UsageError
from rlhf.models.sharding import is_sharded
from rlhf.parallel.world import World
from rlhf.rewards.loading import build_reward_model, load_reward_model
from rlhf.rewards.reward_card import RewardCard
from rlhf.training.callbacks import Callback
from rlhf.training.reward_trainer import RewardTrainer
from tests.support import reward_models as kit
from tests.support import tiny_models
from tests.support.processes import on_processes

LORA = ModelConfig(lora_rank=4)
ROUNDING = 1e-6


def trainer(
    world: World,
    tiny: Path,
    directory: Path,
    *,
    train: str = "lora",
    shard: bool = True,
    model: ModelConfig = LORA,
    dtype: str = "float32",
    **more: Any,
) -> RewardTrainer:
    """A run in four parts, whose last batch and some microbatches are smaller than others."""
    torch.manual_seed(0)
    llava = tiny_models.load(tiny, dtype, model.quantization)
    defaults = {"lr": 1e-4 if train == "full" else 1e-2, "epochs": 2, "batch_size": 5}
    defaults |= {"microbatch_tokens": 100, "evaluate_every": 1, "save_every": 2}
    defaults |= {"early_stopping_patience": 2, "center_coef": 0.1}
    options = kit.options("llava_head", train=train, **{**defaults, **more})
    return RewardTrainer(
        build_reward_model(llava, options, model),
        kit.pairs_of(llava, tiny, [1.0, 0.5] * 4),
        options,
        validation=kit.pairs_of(llava, tiny).select(torch.arange(7)),  # in 7 microbatches
        run_config=Config(
            reward=options, model=model, parallel=ParallelConfig(parts=4, shard=shard)
        ),
        run_dir=directory,
        world=world,
    )


def whole_run(
    world: World, tiny: Path, directory: Path, options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What training leaves, and the trained weights on process 0."""
    run = trainer(world, tiny, directory, **options)
    assert run.sharding.active == (world.size > 1)
    if (directory / "checkpoints").exists():
        run.resume()
    metrics = [dict(values) for values in run]
    run.save()
    run.model.world = world
    scores = run.model.scores(*run._pairs.batch.stacked(), max_tokens=120)
    _, card = RewardCard.read(str(directory))
    left = {"metrics": metrics, "mean": run.model.mean, "std": run.model.std}
    left |= {"best": run.best_step, "scores": scores.tolist(), "hashes": card.fingerprint}
    named = {str(number): value for number, value in enumerate(run.parameters)}
    return left, {k: x.detach().numpy() for k, x in run.sharding.gather_all(named).items()}


def assert_equal(tiny: Path, directory: Path, sizes: list[int], **options: Any) -> None:
    left, weights = whole_run(World(), tiny, directory / "1", {**options, "shard": False})
    assert left["best"] < len(left["metrics"]) == 3  # the best weights came back
    for size in sizes:
        first, *others = on_processes(size, whole_run, tiny, directory / str(size), options)
        assert not isinstance(first, str), first
        assert first[0] == left and all(got == (left, {}) for got in others)
        assert all((first[1][name] == value).all() for name, value in weights.items())


@pytest.mark.parametrize("train", ["lora", "head"])
def test_a_lora_or_a_head_is_the_same(tiny: Path, tmp_path: Path, train: str) -> None:
    assert_equal(tiny, tmp_path, [2], train=train)


@pytest.mark.processes
@pytest.mark.parametrize("train", ["lora", "head"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "nf4"])
def test_every_storage_is_the_same(tiny: Path, tmp_path: Path, kind: str, train: str) -> None:
    options: dict[str, Any] = {"dtype": kind}
    if kind == "nf4":
        options = {"dtype": "bfloat16", "model": replace(LORA, quantization="nf4")}
    assert_equal(tiny, tmp_path, [2, 4], train=train, **options)


def assert_near(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    assert max(abs(got[name] - value).max() for name, value in expected.items()) <= ROUNDING


@pytest.mark.parametrize("sizes", [[2], pytest.param([2, 4], marks=pytest.mark.processes)])
def test_full_training_differs_by_rounding_only(
    tiny: Path, tmp_path: Path, sizes: list[int]
) -> None:
    options = {"train": "full"}
    left, weights = whole_run(World(), tiny, tmp_path / "1", {**options, "shard": False})
    llava = tiny_models.load(tiny)
    for size in sizes:
        place = tmp_path / str(size)
        first, *others = on_processes(size, whole_run, tiny, place, options)
        assert not isinstance(first, str), first
        assert all(got == (first[0], {}) for got in others)
        assert first[0]["best"] == left["best"]
        assert first[0]["scores"] == pytest.approx(left["scores"], abs=1e-4)
        assert_near(first[1], weights)
        saved = load_reward_model(str(place), llava, share_base_model=False)
        pairs = kit.pairs_of(llava, tiny, [1.0, 0.5] * 4)
        scores = saved.scores(*pairs.stacked(), max_tokens=120)
        assert scores.tolist() == first[0]["scores"]


def cut_run(world: World, tiny: Path, directory: Path, options: dict[str, Any]) -> None:
    """Two steps, the second of which saved a checkpoint."""
    steps = trainer(world, tiny, directory, **options).iterations()
    next(steps), next(steps)


@pytest.mark.processes
@pytest.mark.parametrize("train", ["lora", "full"])
def test_a_checkpoint_of_two_processes_is_read_on_one_and_four(
    tiny: Path, tmp_path: Path, train: str
) -> None:
    options = {"train": train}
    left, weights = whole_run(World(), tiny, tmp_path / "uncut", {**options, "shard": False})
    on_processes(2, cut_run, tiny, tmp_path / "cut", options)
    for size, shard in ((1, train == "full"), (2, True), (4, True)):
        place = tmp_path / str(size)
        shutil.copytree(tmp_path / "cut", place)
        got, *_ = on_processes(size, whole_run, tiny, place, {**options, "shard": shard})
        assert not isinstance(got, str), got
        assert len(got[0]["metrics"]) == len(left["metrics"]) - 2 > 0
        if train == "lora":
            assert {**got[0], "metrics": []} == {**left, "metrics": []}
            assert all((got[1][name] == value).all() for name, value in weights.items())
        else:
            assert_near(got[1], weights)


def test_resuming_full_training_refuses_another_shard(tiny: Path, tmp_path: Path) -> None:
    whole_run(World(), tiny, tmp_path, {"train": "full", "epochs": 1})
    run = trainer(World(), tiny, tmp_path, train="full", epochs=1, shard=False)
    with pytest.raises(UsageError, match="other options") as error:
        run.resume()
    assert "parallel.shard: True then, False now" in error.value.where


class Recorder(Callback):
    """Notes whether layers are sharded when it is called."""

    def __init__(self) -> None:
        self.seen: list[set[bool]] = []

    def on_iteration(self, trainer: Any, metrics: Any) -> None:
        self.seen.append(sharded(trainer))

    def on_end(self, trainer: Any) -> None:
        self.seen.append(sharded(trainer))


def sharded(run: RewardTrainer) -> set[bool]:
    layers = run.model.llava.language_model.layers  # type: ignore[attr-defined]
    return {is_sharded(x) for name, x in layers.named_parameters() if "lora_" not in name}


def held(world: World, tiny: Path, directory: Path) -> list[set[bool]]:
    """Whether layers are sharded inside a callback, and between steps."""
    run, recorder = trainer(world, tiny, directory, epochs=1), Recorder()
    run.callbacks.append(recorder)
    for _ in run:
        recorder.seen.append(sharded(run))
    return recorder.seen


@pytest.mark.processes
def test_layers_are_sharded_between_steps_and_whole_for_callbacks(
    tiny: Path, tmp_path: Path
) -> None:
    assert on_processes(2, held, tiny, tmp_path) == [[{False}, {True}] * 2 + [{False}]] * 2


def test_a_text_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    llava, text_model = tiny_models.load(tiny), kit.write_text_model(tmp_path, tiny, "text")
    options = kit.options("caption_text", text_model)
    config = Config(reward=options, parallel=ParallelConfig(shard=True))
    with pytest.raises(UsageError) as error:
        RewardTrainer(
            kit.build(llava, options), kit.pairs_of(llava, tiny), options, run_config=config
        )
    assert error.value.exit_code == 2 and len(str(error.value).split("\n")) == 3
    assert "reward.kind=caption_text" in error.value.where
