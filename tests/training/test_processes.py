"""Supervised and reward training on several processes: equal to one process, to the last bit."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import Config, ModelConfig, ParallelConfig, SFTConfig
from rlhf.errors import StoppedError
from rlhf.models.load_model import load_model
from rlhf.parallel.world import World
from rlhf.rewards.loading import build_reward_model
from rlhf.storage.hashing import hash_tensors
from rlhf.training.callbacks import Callback
from rlhf.training.reward_trainer import RewardTrainer
from rlhf.training.sft_trainer import SFTTrainer
from rlhf.training.trainer import Trainer
from tests.support import reward_models as kit
from tests.support import tiny_models
from tests.support.processes import on_processes
from tests.training.test_sft_trainer import demonstrations

PARTS = ParallelConfig(parts=4)
SFT = SFTConfig(batch_size=5, epochs=2, lr=1e-2, warmup_steps=1, save_every=1, microbatch_tokens=60)
LORA = ModelConfig(lora_rank=4)
TRAININGS = [
    *("sft-lora", "sft-full", "sft-alora", "head-lora", "head-head", "head-full"),
    *("head-alora", "state-lora", "caption"),
]


def trainer(
    world: World, tiny: Path, texts: Path, directory: Path, kind: str, dtype: str
) -> Trainer:
    """A run in four parts, of several microbatches a part, whose last batch is smaller."""
    torch.manual_seed(0)
    lora = replace(LORA, lora_type="alora" if "alora" in kind else "lora")
    shared: dict[str, Any] = {"run_dir": directory, "world": world}
    if kind.startswith("sft"):
        training = replace(lora, train="full" if kind == "sft-full" else "lora")
        config = Config(sft=SFT, model=training, parallel=PARTS)
        model = tiny_models.load(tiny, dtype)
        return SFTTrainer(model, demonstrations(tiny), SFT, training, run_config=config, **shared)
    train = kind.partition("-")[2].replace("alora", "lora") or "lora"
    name = {"head": "llava_head", "state": "llava_state"}.get(
        kind.partition("-")[0], "caption_text"
    )
    options = kit.options(
        name,
        texts,
        train,
        epochs=2,
        batch_size=5,
        microbatch_tokens=60,
        evaluate_every=1,
        early_stopping_patience=2,
        save_every=1,
        center_coef=0.1,
        label_smoothing=0.1,
    )
    llava = tiny_models.load(tiny, dtype)
    reward, pairs = (
        build_reward_model(llava, options, lora),
        kit.pairs_of(llava, tiny, [1.0, 0.5] * 4),
    )
    run_config = Config(reward=options, parallel=PARTS)
    return RewardTrainer(reward, pairs, options, validation=pairs, run_config=run_config, **shared)


def result(run: Trainer) -> dict[str, Any]:
    """Hash of all weights, and what else training leaves."""
    if isinstance(run, SFTTrainer):
        return {"weights": hash_tensors(run.llava.model.named_parameters())}
    assert isinstance(run, RewardTrainer)
    head = run.model.head.named_parameters(prefix="head")
    weights = hash_tensors([*run.model.backbone().named_parameters(), *head])
    scale = [run.model.mean.hex(), run.model.std.hex()]
    return {"weights": weights, "scale": scale, "best": run.best_step}


def whole_run(world: World, tiny: Path, texts: Path, directory: Path, *kind: str) -> dict[str, Any]:
    run = trainer(world, tiny, texts, directory, *kind)
    before = result(run)["weights"]
    run.run()
    run.save()
    assert result(run)["weights"] != before
    return result(run)


@pytest.fixture
def texts(tiny: Path, tmp_path: Path) -> Path:
    return kit.write_text_model(tmp_path / "texts", tiny, "text")


def assert_equal(tiny: Path, texts: Path, root: Path, sizes: list[int], *kind: str) -> None:
    expected = whole_run(World(), tiny, texts, root / "1", *kind)
    curves = tiny_models.timeless_curves(root / "1/metrics.jsonl")
    assert len(curves) >= 4
    saved = {path.relative_to(root / "1"): path for path in (root / "1").rglob("*.safetensors")}
    for size in sizes:
        there = root / str(size)
        assert on_processes(size, whole_run, tiny, texts, there, *kind) == [expected] * size
        assert tiny_models.timeless_curves(there / "metrics.jsonl") == curves
        for name, path in saved.items():
            assert (there / name).read_bytes() == path.read_bytes(), name


@pytest.mark.parametrize("kind", ["sft-lora", "head-lora"])
def test_two_processes_train_what_one_trains(
    tiny: Path, texts: Path, tmp_path: Path, kind: str
) -> None:
    assert_equal(tiny, texts, tmp_path, [2], kind, "float32")


@pytest.mark.processes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", TRAININGS)
def test_every_kind_of_training_is_the_same(
    tiny: Path, texts: Path, tmp_path: Path, kind: str, dtype: str
) -> None:
    assert_equal(tiny, texts, tmp_path, [2, 4], kind, dtype)


class Interrupt(Callback):
    """Sends a signal to this process after its second step."""

    steps = 0

    def on_iteration(self, trainer: Any, metrics: Any) -> None:
        self.steps += 1
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def stopped_run(world: World, tiny: Path, texts: Path, directory: Path, kind: str) -> int:
    run = trainer(world, tiny, texts, directory, kind, "float32")
    run.callbacks.extend([Interrupt()] if world.rank == 1 else [])
    with pytest.raises(StoppedError) as error:
        run.run()
    return error.value.exit_code


def resumed_run(
    world: World, tiny: Path, texts: Path, directory: Path, kind: str
) -> dict[str, Any]:
    run = trainer(world, tiny, texts, directory, kind, "float32")
    run.resume()
    assert run.done == 2
    run.run()
    return result(run)


@pytest.mark.parametrize("kind", ["sft-lora", "head-lora"])
def test_a_run_cut_on_two_processes_goes_on_on_one_and_four(
    tiny: Path, texts: Path, tmp_path: Path, kind: str
) -> None:
    expected = whole_run(World(), tiny, texts, tmp_path / "uncut", kind, "float32")
    assert on_processes(2, stopped_run, tiny, texts, tmp_path / "cut", kind) == [143, 143]
    for size in (1, 4):
        shutil.copytree(tmp_path / "cut", tmp_path / str(size))
        got = on_processes(size, resumed_run, tiny, texts, tmp_path / str(size), kind)
        assert got == [expected] * size


def other_pairs(world: World, tiny: Path) -> None:
    llava, options = tiny_models.load(tiny), kit.options("llava_head", train="head")
    pairs = kit.pairs_of(llava, tiny).select(torch.arange(world.rank, 8))
    RewardTrainer(kit.build(llava, options), pairs, options, world=world)


def other_data(world: World, tiny: Path) -> None:
    model = load_model(tiny / "model", device="cpu")
    data = demonstrations(tiny)
    data.records = data.records[world.rank :]
    SFTTrainer(model, data, SFT, LORA, world=world).run()


@pytest.mark.parametrize("run", [other_data, other_pairs])
def test_processes_with_other_data_are_refused(tiny: Path, run: Callable[..., None]) -> None:
    for text in on_processes(2, run, tiny):
        assert "weights or training data: not the same on every process" in text
        assert "process 1 of 2, against process 0" in text
