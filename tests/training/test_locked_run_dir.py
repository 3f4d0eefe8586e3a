"""A trainer keeps other runs out of its run directory, and lets them in when it ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import DirectoryInUseError
from rlhf.storage.run_directory import RunDirectory, lock_directory
from rlhf.training.callbacks import Callback
from rlhf.training.trainer import Trainer
from tests.ppo.test_loop import trainer as ppo_trainer
from tests.training.test_sft_trainer import trainer as sft_trainer


class Failing(Callback):
    """Raises an error in the first iteration."""

    def on_iteration(self, trainer: Any, metrics: Any) -> None:
        raise ZeroDivisionError


def is_locked(directory: Path) -> bool:
    try:
        RunDirectory(directory).close()
    except DirectoryInUseError:
        return True
    return False


@pytest.fixture(params=[ppo_trainer, sft_trainer])
def make(request: pytest.FixtureRequest) -> Callable[..., Trainer]:
    """Makes a trainer of one kind, of the tiny model, in a run directory."""
    made: Callable[..., Trainer] = request.param
    return made


def test_a_second_trainer_is_refused_until_the_first_leaves_its_loop(
    make: Callable[..., Trainer], tiny: Path, tmp_path: Path
) -> None:
    first, second = (make(tiny, run_dir=tmp_path / "run") for _ in range(2))
    loop = iter(first)
    next(loop)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(DirectoryInUseError) as error:
        second.run()
    assert error.value.where == str(tmp_path / "run") and error.value.fix
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    loop.close()  # type: ignore[attr-defined]
    assert not is_locked(tmp_path / "run")


def test_an_error_and_the_end_let_others_in(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []  # what is thrown away is released, too, but when?

    def keep(path: Path) -> Any:
        kept.append(lock_directory(path))
        return kept[-1]

    monkeypatch.setattr("rlhf.training.trainer.lock_directory", keep)
    failing, whole = ppo_trainer(tiny, tmp_path / "a"), ppo_trainer(tiny, tmp_path / "b")
    failing.callbacks.append(Failing())
    with pytest.raises(ZeroDivisionError):
        failing.run()
    for _ in whole:
        assert is_locked(tmp_path / "b")
    assert len(kept) == 2 and not is_locked(tmp_path / "a") and not is_locked(tmp_path / "b")


def test_a_trainer_is_refused_in_the_directory_of_a_command_that_runs(
    tiny: Path, tmp_path: Path
) -> None:
    command = RunDirectory(tmp_path / "run")
    with pytest.raises(DirectoryInUseError):
        ppo_trainer(tiny, tmp_path / "run").run()
    command.close()
    ppo_trainer(tiny, tmp_path / "run").run()


def test_without_a_run_directory_nothing_is_locked(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ppo_trainer(tiny).run()
    assert [*tmp_path.iterdir()] == []
