"""`rlhf reward parallel.shard=true` on processes: the files of one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from rlhf.cli.main import main
from rlhf.commands.job import Job
from rlhf.commands.reward import reward
from rlhf.config.schema import Config, DataConfig, ModelConfig, ParallelConfig
from rlhf.data.records import write_records
from rlhf.parallel.world import World
from tests.commands.test_reward import pairs
from tests.support import reward_models as kit
from tests.support.processes import on_processes

ROUNDING = 1e-6


def command(world: World, tiny: Path, directory: Path, train: str, folds: int, shard: bool) -> Any:
    """The summary of one call of the command."""
    options = kit.options("llava_head", train=train, lr=1e-4, epochs=1, batch_size=4)
    config = Config(
        model=ModelConfig(path=str(tiny / "model"), lora_rank=4),
        data=DataConfig(preferences=str(directory.parent / "pairs.jsonl"), root=str(tiny)),
        reward=replace(options, cv_folds=folds, learning_curve=folds > 0, microbatch_tokens=100),
        parallel=ParallelConfig(parts=4, shard=shard),
    )
    directory.mkdir(exist_ok=True)
    job = Job(config, directory, [], [], lambda *_: (Path(), {}), world=world)
    return {name: x for name, x in reward(job).items() if name != "report"}


def weights(directory: Path) -> dict[str, Any]:
    files = sorted(directory.rglob("*.safetensors"))
    return {f"{file.name}.{k}": x for file in files for k, x in load_file(file).items()}


@pytest.mark.processes
@pytest.mark.parametrize("folds", [0, 2])
@pytest.mark.parametrize("train", ["lora", "full", "head"])
def test_two_and_four_processes_write_what_one_writes(
    tiny: Path, tmp_path: Path, train: str, folds: int
) -> None:
    write_records(tmp_path / "pairs.jsonl", pairs(24, ties=4))
    one = tmp_path / "one"
    expected, before = command(World(), tiny, one, train, folds, False), weights(one)
    for size in (2, 4):
        there = tmp_path / str(size)
        first, *others = on_processes(size, command, tiny, there, train, folds, True)
        assert not isinstance(first, str), first
        assert all(got == first for got in others) and first.keys() == expected.keys()
        found = weights(there)
        assert found.keys() == before.keys()
        if train == "full":
            assert max(abs(found[name] - value).max() for name, value in before.items()) <= ROUNDING
        else:
            assert first == expected
            assert all((found[name] == value).all() for name, value in before.items())
            assert (there / "metrics.json").read_bytes() == (one / "metrics.json").read_bytes()


def test_a_text_model_is_refused_before_any_model_loads(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf.commands.reward_study.load_trainable", None)
    write_records(tmp_path / "pairs.jsonl", pairs(4))
    words = f"model.path={tiny}/model data.preferences=pairs.jsonl data.root={tiny}".split()
    options = ["reward.kind=caption_text", "reward.text_model=x", "parallel.shard=true"]
    assert main(["reward", *words, *options]) == 2
    assert "a reward model that reads captions cannot be sharded" in capsys.readouterr().err
