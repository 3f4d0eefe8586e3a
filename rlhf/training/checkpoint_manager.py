"""Save checkpoints of a training loop, periodically and when a signal stops it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.config.schema import Config
from rlhf.errors import (
    DataError,
    LostProcessError,
    OtherProcessError,
    ResourceError,
    UsageError,
    told_once,
)
from rlhf.models.sharding import shard_like
from rlhf.parallel.world import ALONE, World
from rlhf.storage.checkpoint import Checkpoint, save_checkpoint, step_name
from rlhf.storage.hashing import hash_tensors
from rlhf.storage.rng_state import random_state, restore_random_state
from rlhf.tracking.console import say
from rlhf.tracking.profiler import phase
from rlhf.training.signals import EXIT_CODES, StopRequest, defer_signals, stopped_error
from rlhf.types import PromptBatch, Responses

FAILED_SAVES = 3  # consecutive failed saves after which a run ends


@dataclass(frozen=True)
class State:
    """State of a training loop, from which it can continue.

    Attributes:
        tensors: tensors by part and name.
        values: all other state, as JSON.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]


class CheckpointManager:
    """Saves the state of a training loop every few steps, at its end, and when a signal comes.

    If a save fails, a warning is printed and training continues; the third consecutive failure ends
    the run.

    Args:
        command: name of the command that runs the loop.
        config: stored in each checkpoint; a resumed run compares its own with it.
        directory: run directory; checkpoints go to its `checkpoints/`. None: none is saved.
        every: steps between two checkpoints; 0: only at the end.
        capture: returns the current state of the loop on process 0; all processes call it together.
        data: `data_hash` of the training data; a resumed run compares its own with it.
        on_save: called with the directory of each checkpoint.
        world: this process among those of the run; process 0 saves, and all stop together.

    Attributes:
        last_healthy_step: step of the last checkpoint saved as healthy, which is never pruned.
        saved: step of the newest checkpoint.
        resume_command: builds the command line that continues the run, from a checkpoint or, given
            no path, from the newest; None: the run was set up in Python.
    """

    def __init__(
        self,
        command: str,
        config: Config,
        directory: Path | None,
        every: int,
        capture: Callable[[], State],
        data: str,
        on_save: Callable[[Path], None] = lambda _: None,
        world: World = ALONE,
    ) -> None:
        self.command, self.config, self.directory = command, config, directory
        self.every, self.capture, self.data, self.on_save = every, capture, data, on_save
        self.world = world
        self.last_healthy_step: int | None = None
        self.saved: int | None = None
        self.resume_command: Callable[[str], str] | None = None
        self._stop_request, self._failed_saves = StopRequest(), 0

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Inside the block the first signal waits for `maybe_save`; a second one stops at once."""
        with defer_signals(announce=self.world.is_first) as self._stop_request:
            yield

    def maybe_save(self, done: int, *, last: bool, healthy: bool = False) -> None:
        """Save a checkpoint if one is due; called after each step.

        Args:
            done: steps done.
            last: whether this is the last step.
            healthy: whether the run has no health warning; a healthy checkpoint is not pruned.

        Raises:
            StoppedError: a signal came; the checkpoint is saved.
            ResourceError: a save failed for the third consecutive time, or at the end.
        """
        signal = self._agreed_signal()
        if self.directory is None:
            if signal:
                raise told_once(stopped_error(signal))
            return
        if last or signal or (self.every and done % self.every == 0):
            self._try_to_save(done, must=last or bool(signal), healthy=healthy)
        if signal:
            raise told_once(stopped_error(signal, str(self.directory), self.how_to_continue()))

    def save(self, done: int, *, healthy: bool = False) -> Path:
        """Write a checkpoint, all processes together, and return its path.

        Args:
            done: steps done.
            healthy: whether the run has no health warning; the checkpoint says so itself.

        Raises:
            ResourceError: it could not be written.
            UsageError: there is no run directory.
        """
        with phase("save"):
            state = self.capture()
        healthy_step = done if healthy else self.last_healthy_step
        path = Path(self.world.first(lambda: str(self._write(done, state, healthy_step))))
        self.last_healthy_step = healthy_step
        return path

    def _write(self, done: int, state: State, healthy_step: int | None) -> Path:
        if self.directory is None:
            fix = "name a run_dir"
            raise UsageError("a run without files saves no checkpoints", "run_dir=None", fix)
        with phase("save"):
            tensors, values = random_state()
            common: dict[str, Any] = {"config": asdict(self.config), "data": self.data}
            common |= {"last_healthy_step": healthy_step, "random": values}
            path = save_checkpoint(
                self.directory / "checkpoints",
                done,
                tensors={**state.tensors, "random": tensors},
                state={**state.values, **common},
                facts={"command": self.command},
                protect=healthy_step,
            )
        self.on_save(path)
        return path

    def resume(self, checkpoint: Checkpoint) -> None:
        """Restore the last healthy step and the global random generators from a checkpoint.

        Args:
            checkpoint: loaded from the directory of this run.

        Raises:
            UsageError: the training data have changed since the run began.
        """
        if checkpoint.state["data"] != self.data and "data" not in self.config.resume_allow:
            what = "the data, or how they are tokenized, are not those the run began with"
            fix = "restore the files, or add 'resume_allow=[data]'"
            raise UsageError(what, str(checkpoint.path), fix)
        self.last_healthy_step = checkpoint.state["last_healthy_step"]
        self.saved = checkpoint.step
        restore_random_state(checkpoint.tensors["random"], checkpoint.state["random"])

    def how_to_continue(self) -> str:
        """Say how the run is continued from its newest checkpoint: a command line, or a method."""
        if self.resume_command:
            return f"continue with: {self.resume_command('')}"
        return "continue with: trainer.resume(), before trainer.run()"

    def path(self, step: int | None) -> str:
        """Path of the checkpoint of a step; "none" for None."""
        if step is None or self.directory is None:
            return "none"
        return str(self.directory / "checkpoints" / step_name(step))

    def _try_to_save(self, done: int, *, must: bool, healthy: bool) -> None:
        try:
            self.save(done, healthy=healthy)
            self.saved, self._failed_saves = done, 0
        except LostProcessError:
            raise
        except (ResourceError, OtherProcessError) as error:
            self._failed_saves += 1
            if must or self._failed_saves == FAILED_SAVES:
                raise
            say(f"{error.what} Step {done} is not saved, training goes on. {error.fix}", "yellow")

    def _agreed_signal(self) -> str:
        """Return the signal that came to this process, or to another one; empty for none."""
        names = ["", *EXIT_CODES]
        return names[int(self.world.most(names.index(self._stop_request.signal)))]


def data_hash(*parts: PromptBatch | Responses | Tensor) -> str:
    """Hash of training data: tokens, lengths, image names and tensors, in order.

    Args:
        *parts: prompts, responses and tensors that a run trains on.
    """
    named = []
    for index, part in enumerate(parts):
        if isinstance(part, Tensor):
            named.append((f"{index}", part))
            continue
        named += [(f"{index}.tokens", part.tokens), (f"{index}.lengths", part.spans.lengths)]
        if isinstance(part, PromptBatch):
            names = "/".join(path.name for paths in part.images for path in paths)
            named.append((f"{index}.images", torch.tensor([*names.encode()])))
    return hash_tensors(named)


def by_index(values: Iterable[Tensor]) -> dict[str, Tensor]:
    """Detach tensors and name them by their index: "0", "1", …."""
    return {str(index): value.detach() for index, value in enumerate(values)}


@torch.no_grad()
def restore_parameters(parameters: Mapping[str, Tensor], checkpoint: Checkpoint, part: str) -> None:
    """Copy saved values into parameters, also into sharded ones.

    Args:
        parameters: parameters by name; overwritten.
        checkpoint: has the saved values.
        part: entry of `checkpoint.tensors` with the same names.

    Raises:
        DataError: names or shapes differ from the saved ones.
    """
    saved = checkpoint.tensors[part]
    shapes = {name: value.shape for name, value in parameters.items()}
    if shapes != {name: value.shape for name, value in saved.items()}:
        fix = "resume with the model and the options it was saved with"
        raise DataError("the checkpoint trains other parameters", str(checkpoint.path), fix)
    for name, value in parameters.items():
        value.copy_(shard_like(value, saved[name]))
