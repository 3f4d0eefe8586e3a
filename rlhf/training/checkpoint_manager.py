"""When a training loop saves, and how it ends early without losing what it did."""

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
from rlhf.training.signals import StopRequest, finishes_first, stopped
from rlhf.types import PromptBatch, Responses

FAILED_SAVES = 3  # in a row, after which the run ends


@dataclass(frozen=True)
class State:
    """What a loop needs to go on from here: tensors by part and name, and the rest as JSON."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]


class CheckpointManager:
    """Saves a loop's state each `every` steps, at its end, and when a signal asks it to stop.

    A save that fails is warned of and the loop goes on; the third in a row ends the run.

    Args:
        command: which command the loop belongs to.
        config: stands in each checkpoint, for a resume to compare with.
        directory: of the run; checkpoints/ is in it.
        every: steps between two checkpoints; 0: at the end only.
        capture: the state after the steps done so far.
        data: `data_hash` of what is trained on, which a resume must find again.
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
        self.last_healthy_step: int | None = None  # step of a checkpoint that is never pruned
        self.saved: int | None = None  # step of the newest checkpoint
        self._asked, self._failed = StopRequest(), 0

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """The loop: a signal inside it is dealt with by `after`."""
        with finishes_first() as self._asked:
            yield

    def maybe_save(self, done: int, *, last: bool, good: bool = False) -> None:
        """Call it with the number of steps done, after each.

        Args:
            last: the loop ends here.
            good: this is a state to go back to; its checkpoint, if there is one, stays.

        Raises:
            StoppedError: a signal asked for it; what was done is saved.
            ResourceError: it could not be saved, for the third time or at the end.
        """
        signal = self._asked.signal
        if last or signal or (self.every and done % self.every == 0):
            saved = self._try(done, must=last or bool(signal))
            self.last_healthy_step = done if saved and good else self.last_healthy_step
        if signal:
            fix = f"continue with: rlhf {self.command} resume={self.directory}"
            raise stopped(signal, str(self.directory), fix)

    def save(self, done: int) -> Path:
        """Write a checkpoint. Raises: ResourceError when the disk refuses."""
        with phase("save"):
            state = self.capture()
            tensors, values = random_state()
            common: dict[str, Any] = {"config": asdict(self.config), "data": self.data}
            common |= {"good": self.last_healthy_step, "random": values}
            return save_checkpoint(
                self.directory / "checkpoints",
                done,
                tensors={**state.tensors, "random": tensors},
                state={**state.values, **common},
                facts={"command": self.command},
                protect=self.last_healthy_step,
            )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on as after `save`: which checkpoint is good, and the global random generators.

        Raises:
            UsageError: the data are not those the run began with.
        """
        if checkpoint.state["data"] != self.data and "data" not in self.config.resume_allow:
            what = "the data, or how they are tokenized, are not those the run began with"
            fix = "restore the files, or add 'resume_allow=[data]'"
            raise UsageError(what, str(checkpoint.path), fix)
        self.last_healthy_step, self.saved = checkpoint.state["good"], checkpoint.step
        restore_random_state(checkpoint.tensors["random"], checkpoint.state["random"])

    def path(self, step: int | None) -> str:
        """Of the checkpoint of a step; "none" without one."""
        return "none" if step is None else str(self.directory / "checkpoints" / step_name(step))

    def _try(self, done: int, *, must: bool) -> bool:
        try:
            self.save(done)
            self.saved, self._failed = done, 0
            return True
        except ResourceError as error:
            self._failed += 1
            if must or self._failed == FAILED_SAVES:
                raise
            say(f"{error.what} Step {done} is not saved, training goes on. {error.fix}", "yellow")
            return False


def data_hash(*parts: PromptBatch | Responses | Tensor) -> str:
    """Of tokens, lengths, the names of the images, and other metrics, by their places."""
    named = []
    for place, part in enumerate(parts):
        if isinstance(part, Tensor):
            named.append((f"{place}", part))
            continue
        named += [(f"{place}.tokens", part.tokens), (f"{place}.lengths", part.spans.lengths)]
        if isinstance(part, PromptBatch):
            names = "/".join(path.name for paths in part.images for path in paths)
            named.append((f"{place}.images", torch.tensor([*names.encode()])))
    return hash_tensors(named)


def by_index(values: Iterable[Tensor]) -> dict[str, Tensor]:
    """Parameters by their place."""
    return {str(place): value.detach() for place, value in enumerate(values)}


@torch.no_grad()
def restore_parameters(trained: Mapping[str, Tensor], checkpoint: Checkpoint, part: str) -> None:
    """Give parameters the values they had. Raises: DataError, they are others."""
    saved = checkpoint.tensors[part]
    if {k: x.shape for k, x in trained.items()} != {k: x.shape for k, x in saved.items()}:
        fix = "resume with the model and the options it was saved with"
        raise DataError("the checkpoint trains other parameters", str(checkpoint.path), fix)
    for name, value in trained.items():
        value.copy_(saved[name])
