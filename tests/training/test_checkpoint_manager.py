"""When a loop saves, what a signal, a full disk and a good state do to that."""

import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.config.schema import Config
from rlhf.errors import ResourceError, StoppedError, UsageError
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.training import checkpoint_manager as keeping
from rlhf.training import signals
from rlhf.training.checkpoint_manager import CheckpointManager, State, data_hash
from tests.support import tiny_models


def checkpoint_manager(directory: Path, every: int = 2) -> CheckpointManager:
    state = State({"weights": {"w": torch.ones(2)}}, {"loss": 0.5})
    return CheckpointManager("ppo", Config(), directory, every, lambda: state, "of the data")


def saved(directory: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (directory / "checkpoints").glob("step-*"))


def test_checkpoints_are_saved_every_n_steps_and_at_the_end(tmp_path: Path) -> None:
    manager, steps = checkpoint_manager(tmp_path, every=3), []
    with manager.catch_signals():
        for step in range(1, 8):
            manager.maybe_save(step, last=step == 7)
            steps.append(manager.saved)
    assert steps == [None, None, 3, 3, 3, 6, 7]


@pytest.mark.parametrize("name", signals.EXIT_CODES)
def test_a_signal_is_handled_after_the_step(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    manager, before = checkpoint_manager(tmp_path), signal.getsignal(getattr(signal, name))
    with pytest.raises(StoppedError) as error, manager.catch_signals():
        manager.maybe_save(1, last=False)
        os.kill(os.getpid(), getattr(signal, name))
        assert not saved(tmp_path)
        manager.maybe_save(3, last=False)
    assert saved(tmp_path) == [3]
    assert (
        error.value.exit_code == {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 75, "SIGHUP": 143}[name]
    )
    assert error.value.fix == "continue with: trainer.resume(), before trainer.run()"
    assert f"{name}: this step is finished and saved first" in capfd.readouterr().err
    assert signal.getsignal(getattr(signal, name)) == before


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    manager = checkpoint_manager(tmp_path)
    with pytest.raises(StoppedError), signals.raise_on_signal(), manager.catch_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert not (tmp_path / "checkpoints").exists()


def test_outside_a_loop_the_first_signal_stops() -> None:
    with pytest.raises(StoppedError, match="SIGUSR1") as error, signals.raise_on_signal():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert error.value.exit_code == 75


def test_a_library_that_drops_errors_does_not_drop_a_signal() -> None:
    with pytest.raises(StoppedError, match="SIGTERM"), signals.raise_on_signal():
        with suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was dropped")


def test_a_signal_that_was_dropped_ends_the_block_and_keeps_a_loop_from_starting(
    tmp_path: Path,
) -> None:
    def drop(name: int) -> None:
        with suppress(BaseException):
            os.kill(os.getpid(), name)

    with pytest.raises(StoppedError, match="SIGHUP"), signals.raise_on_signal():
        drop(signal.SIGHUP)
    with pytest.raises(StoppedError, match="SIGTERM"), signals.raise_on_signal():
        drop(signal.SIGTERM)
        with checkpoint_manager(tmp_path).catch_signals():
            raise AssertionError("the loop began")


def test_a_hangup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.raise_on_signal(), signals.defer_signals() as request:
            os.kill(os.getpid(), signal.SIGHUP)
        assert request.signal == ""
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_hangup_does_not_stop_at_once(tmp_path: Path) -> None:
    manager = checkpoint_manager(tmp_path)
    with pytest.raises(StoppedError), signals.raise_on_signal(), manager.catch_signals():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
        manager.maybe_save(3, last=False)
    assert saved(tmp_path) == [3]


def test_failed_saves_are_warned_of_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def save_to_full_disk(*args: object, **options: object) -> Path:
        raise ResourceError("The disk is full.", "there", "Free space.")

    manager = checkpoint_manager(tmp_path, every=1)
    manager.maybe_save(1, last=False)
    monkeypatch.setattr(keeping, "save_checkpoint", save_to_full_disk)
    for step in (2, 3):
        manager.maybe_save(step, last=False)
    assert capsys.readouterr().out.count("training goes on") == 2
    with pytest.raises(ResourceError):
        manager.maybe_save(4, last=False)
    assert manager.saved == 1
    with pytest.raises(ResourceError):  # at the end nothing comes that could save it
        checkpoint_manager(tmp_path).maybe_save(1, last=True)


def test_a_good_state_is_kept_and_known_after_a_resume(tmp_path: Path) -> None:
    manager = checkpoint_manager(tmp_path, every=1)
    for step in range(1, 7):
        manager.maybe_save(step, last=False, healthy=step == 2)
    assert saved(tmp_path) == [2, 5, 6]
    assert manager.path(manager.last_healthy_step).endswith("step-000002")
    resumed = checkpoint_manager(tmp_path, every=1)
    resumed.resume(load_checkpoint(tmp_path / "checkpoints"))
    assert (resumed.last_healthy_step, resumed.saved) == (2, 6)
    assert resumed.path(None) == "none"
    resumed.maybe_save(7, last=False, healthy=True)
    killed = checkpoint_manager(tmp_path, every=1)
    killed.resume(load_checkpoint(tmp_path / "checkpoints"))  # that saved nothing after step 7
    assert killed.last_healthy_step == 7


def test_other_data_are_refused_unless_resume_allow_names_data(tmp_path: Path) -> None:
    manager = checkpoint_manager(tmp_path)
    manager.save(1)
    checkpoint = load_checkpoint(tmp_path / "checkpoints")
    manager.data = "of other data"
    with pytest.raises(UsageError, match="the data"):
        manager.resume(checkpoint)
    manager.config = Config(resume_allow=("data",))
    manager.resume(checkpoint)


def test_the_hash_of_data_sees_tokens_rows_images_and_labels(tiny: Path) -> None:
    llava = tiny_models.load(tiny)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    swapped = torch.tensor([1, 0, 2, 3])
    images = (prompts.images[1], prompts.images[0], *prompts.images[2:])
    labels = torch.tensor([1.0, 0.5])
    hashes = {
        data_hash(prompts, responses, labels),
        data_hash(prompts.select(swapped), responses, labels),
        data_hash(prompts, responses.select(swapped), labels),
        data_hash(replace(prompts, images=images), responses, labels),
        data_hash(prompts, responses, labels.flip(0)),
        data_hash(prompts, responses),
    }
    assert len(hashes) == 6
    assert data_hash(prompts, responses) in hashes


def test_resuming_restores_the_global_generators(tmp_path: Path) -> None:
    manager = checkpoint_manager(tmp_path)
    manager.save(1)
    first = torch.rand(3)
    checkpoint_manager(tmp_path).resume(load_checkpoint(tmp_path / "checkpoints"))
    assert torch.equal(torch.rand(3), first)
