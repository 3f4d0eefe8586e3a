"""Supervised training of a sharded model: that of a whole one."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from rlhf.config.schema import Config, ModelConfig, ParallelConfig, SFTConfig
from rlhf.parallel.world import World
from rlhf.training.sft_trainer import SFTTrainer
from tests.support import tiny_models
from tests.support.processes import on_processes
from tests.training.test_sft_trainer import demonstrations

LORA, FULL = ModelConfig(lora_rank=4), ModelConfig(train="full")
# The last batch and some microbatches are smaller than others.
SFT = SFTConfig(batch_size=5, epochs=2, lr=1e-4, warmup_steps=1, save_every=2, microbatch_tokens=60)
ROUNDING = 1e-6


def trainer(
    world: World,
    tiny: Path,
    directory: Path,
    *,
    shard: bool = True,
    model: ModelConfig = LORA,
    dtype: str = "float32",
) -> SFTTrainer:
    """A run in four parts."""
    torch.manual_seed(0)
    config = Config(sft=SFT, model=model, parallel=ParallelConfig(parts=4, shard=shard))
    llava = tiny_models.load(tiny, dtype, model.quantization)
    options: dict[str, Any] = {"run_config": config, "run_dir": directory, "world": world}
    return SFTTrainer(llava, demonstrations(tiny), SFT, model, **options)


def whole_run(
    world: World, tiny: Path, directory: Path, options: dict[str, Any]
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Metrics of each step, and the trained weights on process 0."""
    run = trainer(world, tiny, directory, **options)
    if (directory / "checkpoints").exists():
        run.resume()
    metrics = [dict(values) for values in run]
    run.save()
    named = {name: x for name, x in run.llava.model.named_parameters() if x.requires_grad}
    return metrics, {k: x.detach().numpy() for k, x in run.sharding.gather_all(named).items()}


def assert_equal(tiny: Path, directory: Path, sizes: list[int], **options: Any) -> None:
    expected = whole_run(World(), tiny, directory / "1", {**options, "shard": False})
    assert len(expected[0]) == 4
    for size in sizes:
        first, *others = on_processes(size, whole_run, tiny, directory / str(size), options)
        assert not isinstance(first, str), first
        assert first[0] == expected[0] and all(got == (first[0], {}) for got in others)
        assert all((first[1][name] == value).all() for name, value in expected[1].items())


def test_a_lora_is_the_same(tiny: Path, tmp_path: Path) -> None:
    assert_equal(tiny, tmp_path, [2])


@pytest.mark.processes
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_half_precision_and_nf4_are_the_same(tiny: Path, tmp_path: Path, quantization: Any) -> None:
    model = replace(LORA, quantization=quantization)
    assert_equal(tiny, tmp_path, [2, 4], model=model, dtype="bfloat16")


@pytest.mark.processes
def test_full_training_differs_by_rounding_only_also_if_it_goes_on_elsewhere(
    tiny: Path, tmp_path: Path
) -> None:
    options = {"model": FULL}
    metrics, expected = whole_run(World(), tiny, tmp_path / "1", {**options, "shard": False})
    for size in (2, 4):
        first, *_ = on_processes(size, whole_run, tiny, tmp_path / str(size), options)
        assert not isinstance(first, str), first
        for got, wanted in zip(first[0], metrics, strict=True):
            assert got == pytest.approx(wanted, rel=1e-5)
        assert max(abs(first[1][name] - value).max() for name, value in expected.items()) < ROUNDING
    saved = AutoModelForImageTextToText.from_pretrained(tmp_path / "4/model").state_dict()
    assert all((saved[name].numpy() == value).all() for name, value in first[1].items())
    for size in (1, 4):
        place = tmp_path / f"resumed-{size}"
        shutil.copytree(tmp_path / "2", place)
        shutil.rmtree(place / "checkpoints/step-000004")
        (after, resumed), *_ = on_processes(size, whole_run, tiny, place, options)
        assert len(after) == 2
        assert max(abs(resumed[k] - value).max() for k, value in expected.items()) < ROUNDING
