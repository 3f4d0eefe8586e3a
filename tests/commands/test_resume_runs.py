"""`rlhf sft`, `reward` and `ppo` stopped in the middle and continued: as if nothing had been."""

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf.cli.main import main
from rlhf.data.records import DemonstrationRecord, PromptRecord, write_records
from rlhf.errors import DivergedError
from rlhf.ppo.trainer import PPOTrainer
from rlhf.storage.run_directory import RunDirectory, unfinished_run
from rlhf.training.checkpoint_manager import CheckpointManager
from rlhf.training.reward_trainer import RewardTrainer
from rlhf.training.sft_trainer import SFTTrainer
from rlhf.training.signals import SignalInterrupt
from tests.commands.test_reward import pairs
from tests.ppo.test_trainer import PPO, trainer
from tests.support.tiny_models import timeless_curves

SMALL = ["model.lora_rank=4", "sampling.max_new_tokens=4", "data.validation_fraction=0.25"]
COMMAND_ARGS = {
    "sft": ["data.demonstrations=shown.jsonl", "sft.epochs=3", "sft.batch_size=3"],
    "reward": [
        "data.preferences=pairs.jsonl",
        "reward.epochs=3",
        "reward.batch_size=8",
        "reward.early_stopping_patience=3",
        "reward.evaluate_every=2",
    ],
    "folds": ["data.preferences=pairs.jsonl", "reward.cv_folds=2", "reward.batch_size=8"],
    "curve": [
        "data.preferences=pairs.jsonl",
        "reward.learning_curve=true",
        "reward.epochs=2",
        "reward.batch_size=4",
        "reward.early_stopping_patience=3",
        "reward.evaluate_every=1",
    ],
    "curve of folds": [
        "data.preferences=pairs.jsonl",
        "reward.learning_curve=true",
        "reward.cv_folds=2",
        "reward.batch_size=4",
    ],
    "ppo": [
        "data.prompts=asked.jsonl",
        "--scorer=judge.py:score",
        "ppo.iterations=6",
        "ppo.rollout_batch_size=4",
        "ppo.minibatch_size=4",
        "ppo.critic_warmup_iterations=1",
    ],
}


@pytest.fixture
def data(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").symlink_to(tiny / "pictures")
    rows = [DemonstrationRecord(f"pictures/{n:05d}.png", "What?", f"it is {n}") for n in range(8)]
    write_records(tmp_path / "shown.jsonl", rows)
    prompts = [PromptRecord(row.image_path, row.instruction) for row in rows]
    write_records(tmp_path / "asked.jsonl", prompts)
    write_records(tmp_path / "pairs.jsonl", pairs(24))
    scorer = "def score(images, asked, said):\n    return [float(len(x)) for x in said]\n"
    scorer += "def other(images, asked, said):\n    return [float(len(x)) for x in asked]\n"
    (tmp_path / "judge.py").write_text(scorer)
    return tmp_path


@pytest.fixture
def interruption(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A signal arrives at one step of one loop, both counted from the start of the process."""
    schedule: dict[str, Any] = {"at": None, "seen": 0}
    maybe_save = CheckpointManager.maybe_save

    def interrupting_save(
        self: CheckpointManager, step: int, *, last: bool, healthy: bool = False
    ) -> None:
        schedule["seen"] += 1
        if schedule["seen"] == schedule["at"]:
            self._stop_request.signal = "SIGTERM"
        maybe_save(self, step, last=last, healthy=healthy)

    monkeypatch.setattr(CheckpointManager, "maybe_save", interrupting_save)
    yield schedule


def command_of(kind: str) -> str:
    return kind if kind in ("sft", "ppo") else "reward"


def run(tiny: Path, kind: str, name: str, *overrides: str) -> int:
    base_args = [f"model.path={tiny / 'model'}", f"data.root={tiny}", f"name={name}", *SMALL]
    return main([command_of(kind), *base_args, *COMMAND_ARGS[kind], *overrides])


def directory_of(data: Path, name: str) -> Path:
    (directory,) = (data / "runs" / name).iterdir()
    return directory


def curves(directory: Path) -> dict[str, list[dict[str, str]]]:
    files = sorted(directory.rglob("metrics.jsonl"))
    return {str(path.relative_to(directory)): timeless_curves(path) for path in files}


def weights(directory: Path) -> dict[str, torch.Tensor]:
    files = [x for x in sorted(directory.rglob("*.safetensors")) if "checkpoints" not in x.parts]
    return {f"{x.relative_to(directory)}:{k}": w for x in files for k, w in load_file(x).items()}


@pytest.mark.parametrize(
    ("kind", "stop_step"),
    [
        ("sft", 4),
        ("reward", 3),
        ("reward", 5),
        ("folds", 4),
        ("curve", 6),
        ("curve of folds", 3),
        ("curve of folds", 8),
        ("ppo", 3),
        ("ppo", 6),
    ],
)
def test_an_interrupted_run_resumes_with_the_same_command_line(
    tiny: Path, data: Path, interruption: dict[str, Any], kind: str, stop_step: int
) -> None:
    assert run(tiny, kind, "whole") == 0
    interruption.update(at=stop_step, seen=0)
    assert run(tiny, kind, "cut", "resume=auto") == 143
    assert not (directory_of(data, "cut") / "summary.json").exists()
    assert run(tiny, kind, "cut", "resume=auto") == 0
    assert unfinished_run(data / "runs" / "cut", command_of(kind)) is None
    uninterrupted, resumed = directory_of(data, "whole"), directory_of(data, "cut")
    assert curves(resumed) == curves(uninterrupted) and curves(uninterrupted)
    uninterrupted_weights, resumed_weights = weights(uninterrupted), weights(resumed)
    assert uninterrupted_weights.keys() == resumed_weights.keys() and uninterrupted_weights
    assert all(
        torch.equal(uninterrupted_weights[name], resumed_weights[name])
        for name in uninterrupted_weights
    )
    assert bool(list(resumed.rglob("checkpoints"))) == (kind == "ppo")  # which may be made longer
    if command_of(kind) == "reward":
        found = [(run / "metrics.json").read_bytes() for run in (uninterrupted, resumed)]
        assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["sft", "reward", "folds", "ppo"])
def test_a_run_that_is_killed_before_its_summary_trains_nothing_anew(
    tiny: Path, data: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    assert run(tiny, kind, "whole") == 0

    def stop(*_: object) -> None:
        raise SignalInterrupt("SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_summary", stop)
        assert run(tiny, kind, "cut", "resume=auto") == 143
    directory = directory_of(data, "cut")
    with monkeypatch.context() as patch:
        for trainer_class in (SFTTrainer, RewardTrainer, PPOTrainer):
            patch.setattr(trainer_class, "step", None)
        assert run(tiny, kind, "cut", "resume=auto") == 0
    for name, expected_lines in curves(directory_of(data, "whole")).items():
        lines = curves(directory)[name]  # those of a reward report may be there twice
        assert [x for i, x in enumerate(lines) if x not in lines[:i]] == expected_lines
    expected, resumed = weights(directory_of(data, "whole")), weights(directory)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in expected.items())
    assert bool(list(directory.rglob("checkpoints"))) == (kind == "ppo")


@pytest.mark.parametrize(("kind", "flags"), [("ppo", ["--judge=judge.py:other"]), ("folds", [])])
def test_an_interrupted_run_continues_with_the_command_line_that_it_prints(
    tiny: Path,
    data: Path,
    interruption: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    kind: str,
    flags: list[str],
) -> None:
    interruption["at"] = 4  # of the folds it is the second
    assert run(tiny, kind, "a b", *flags) == 143
    told = capsys.readouterr().err.strip().splitlines()[-1]
    _, told, words = told.partition("continue with: rlhf ")
    assert told and main(shlex.split(words)) == 0
    _, told, words = capsys.readouterr().out.rpartition("next: rlhf ")
    assert told and ("--scorer=judge.py:score" in shlex.split(words)) == (kind == "ppo")
    assert (directory_of(data, "a b") / "summary.json").exists()


def test_a_refused_resume_changes_nothing(
    tiny: Path, data: Path, interruption: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    interruption["at"] = 4
    assert run(tiny, "ppo", "cut", "ppo.save_every=2") == 143
    directory = directory_of(data, "cut")
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    for resume_path in (directory, directory / "checkpoints" / "step-000002"):
        assert main(["ppo", f"resume={resume_path}", "seed=5", "--scorer=judge.py:score"]) == 2
        assert "seed: 0 then, 5 now" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    step_directory = directory / "checkpoints" / "step-000002"
    assert (
        main(["ppo", f"resume={step_directory}", "ppo.save_every=5", "--scorer=judge.py:score"])
        == 0
    )
    assert "save_every: 5" in (directory / "config.yaml").read_text()


def test_a_warning_can_stop_the_run_and_names_the_last_healthy_checkpoint(
    tiny: Path, tmp_path: Path
) -> None:
    options = replace(PPO, save_every=1, on_warning="stop", iterations=9)
    ppo_trainer = trainer(tiny, tmp_path, options)
    step = ppo_trainer.step

    def diverging_step(iteration: int) -> dict[str, float]:
        metrics = step(iteration)
        for name in ("vision/grounding_gap", "tokens/eos_rate"):  # of this model they warn too
            metrics.pop(name, None)
        return metrics | ({"objective/kl": 99.0} if iteration >= 3 else {})

    ppo_trainer.step = diverging_step  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match="KL explosion at step 6") as error:
        ppo_trainer.run()
    assert "last healthy checkpoint" in error.value.fix
    assert "step-000003" in error.value.fix
    checkpoints = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert checkpoints == ["step-000003", "step-000004", "step-000005"]
    assert ppo_trainer.warnings[-1] == (6, "KL explosion")
