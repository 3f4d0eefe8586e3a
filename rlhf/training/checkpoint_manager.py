"""When a training loop saves checkpoints, and how it stops early without losing steps."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.config.schema import Config
from rlhf.errors import DataError, ResourceError, UsageError
from rlhf.storage.checkpoint import Checkpoint, save_checkpoint, step_name
from rlhf.storage.hashing import hash_tensors
from rlhf.storage.rng_state import random_state, restore_random_state
from rlhf.tracking.console import say
from rlhf.tracking.profiler import phase
from rlhf.training.signals import StopRequest, defer_signals, stopped_error
from rlhf.types import PromptBatch, Responses

FAILED_SAVES = 3  # in a row, after which a run ends


@dataclass(frozen=True)
class State:
    """What a training loop needs to continue.

    Attributes:
        tensors: by part and name.
        values: everything else, as JSON.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]


class CheckpointManager:
    """Saves a loop's state every `every` steps, at its end, and when a signal asks it to stop.

    A save that fails prints a warning and the loop goes on; the third in a row ends the run.

    Args:
        command: the command that the loop belongs to.
        config: stored in each checkpoint, for a resume to compare with.
        directory: run directory; checkpoints go to its `checkpoints/`.
        every: steps between two checkpoints; 0: only at the end.
        capture: returns the state after the steps done so far.
        data: `data_hash` of the training data, which a resume compares with.

    Attributes:
        last_healthy_step: step of the last checkpoint saved as healthy, which is never pruned.
        saved: step of the newest checkpoint.
    """

    def __init__(
        self,
        command: str,
        config: Config,
        directory: Path,
        every: int,
        capture: Callable[[], State],
        data: str,
    ) -> None:
        self.command, self.config, self.directory = command, config, directory
        self.every, self.capture, self.data = every, capture, data
        self.last_healthy_step: int | None = None
        self.saved: int | None = None
        self._stop_request, self._failed_saves = StopRequest(), 0

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Inside the block a signal waits for the next `maybe_save`; a second stops at once."""
        with defer_signals() as self._stop_request:
            yield

    def maybe_save(self, done: int, *, last: bool, healthy: bool = False) -> None:
        """Save if it is time to; call it after each step.

        Args:
            done: steps done.
            last: the loop ends here.
            healthy: a run may go back to this state; its checkpoint, if there is one, is kept.

        Raises:
            StoppedError: a signal asked for it; what was done is saved.
            ResourceError: a save failed for the third time in a row, or at the end.
        """
        signal = self._stop_request.signal
        if last or signal or (self.every and done % self.every == 0):
            saved = self._try_to_save(done, must=last or bool(signal))
            self.last_healthy_step = done if saved and healthy else self.last_healthy_step
        if signal:
            fix = f"continue with: rlhf {self.command} resume={self.directory}"
            raise stopped_error(signal, str(self.directory), fix)

    def save(self, done: int) -> Path:
        """Write a checkpoint; its path.

        Args:
            done: steps done.

        Raises:
            ResourceError: it could not be written.
        """
        with phase("save"):
            state = self.capture()
            tensors, values = random_state()
            common: dict[str, Any] = {"config": asdict(self.config), "data": self.data}
            common |= {"last_healthy_step": self.last_healthy_step, "random": values}
            return save_checkpoint(
                self.directory / "checkpoints",
                done,
                tensors={**state.tensors, "random": tensors},
                state={**state.values, **common},
                facts={"command": self.command},
                protect=self.last_healthy_step,
            )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue as after `save`: the last healthy step, and the global random generators.

        Args:
            checkpoint: loaded from this run's directory.

        Raises:
            UsageError: the data are not those the run began with.
        """
        if checkpoint.state["data"] != self.data and "data" not in self.config.resume_allow:
            what = "the data, or how they are tokenized, are not those the run began with"
            fix = "restore the files, or add 'resume_allow=[data]'"
            raise UsageError(what, str(checkpoint.path), fix)
        self.last_healthy_step = checkpoint.state["last_healthy_step"]
        self.saved = checkpoint.step
        restore_random_state(checkpoint.tensors["random"], checkpoint.state["random"])

    def path(self, step: int | None) -> str:
        """Path of the checkpoint of a step; "none" for None."""
        return "none" if step is None else str(self.directory / "checkpoints" / step_name(step))

    def _try_to_save(self, done: int, *, must: bool) -> bool:
        try:
            self.save(done)
            self.saved, self._failed_saves = done, 0
            return True
        except ResourceError as error:
            self._failed_saves += 1
            if must or self._failed_saves == FAILED_SAVES:
                raise
            say(f"{error.what} Step {done} is not saved, training goes on. {error.fix}", "yellow")
            return False


def data_hash(*parts: PromptBatch | Responses | Tensor) -> str:
    """Fingerprint of training data: tokens, lengths, image names and tensors, in order.

    Args:
        *parts: what a run trains on.
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
    """Detached tensors by their index, as text."""
    return {str(index): value.detach() for index, value in enumerate(values)}


@torch.no_grad()
def restore_parameters(parameters: Mapping[str, Tensor], checkpoint: Checkpoint, part: str) -> None:
    """Copy saved values into parameters.

    Args:
        parameters: by name; overwritten.
        checkpoint: holds the values.
        part: entry of `checkpoint.tensors` with the same names.

    Raises:
        DataError: names or shapes differ from those saved.
    """
    saved = checkpoint.tensors[part]
    if {k: x.shape for k, x in parameters.items()} != {k: x.shape for k, x in saved.items()}:
        fix = "resume with the model and the options it was saved with"
        raise DataError("the checkpoint trains other parameters", str(checkpoint.path), fix)
    for name, value in parameters.items():
        value.copy_(saved[name])
