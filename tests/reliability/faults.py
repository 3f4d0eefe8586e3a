"""The fault injector: something goes wrong in the n-th block of a phase, or in a number."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from rlhf.errors import ResourceError
from rlhf.tracking.profiler import Profile

Kind = Literal["raise", "oom", "kill", "disk"]
OOM = "CUDA out of memory. Tried to allocate 1.00 GiB (injected)"


class _Faulty(Profile):
    """A profile that breaks one block of a phase instead of timing it."""

    def __init__(self, place: str, step: int, break_: Callable[[], None]) -> None:
        super().__init__()
        self.place, self.step, self.break_, self.seen = place, step, break_, 0

    @contextmanager
    def phase(self, name: str, *, opaque: bool) -> Iterator[None]:
        if name == self.place:
            self.seen += 1
            if self.seen == self.step:
                self.break_()
        with super().phase(name, opaque=opaque):
            yield


@contextmanager
def fail_at(phase: str, step: int, kind: Kind) -> Iterator[None]:
    """Inside the block the `step`-th entry into a phase (from 1) fails."""
    with _Faulty(phase, step, lambda: _break(kind)).active():
        yield


def _break(kind: Kind) -> None:
    if kind == "oom":
        raise torch.OutOfMemoryError(OOM)
    if kind == "disk":
        raise ResourceError(os.strerror(errno.ENOSPC), "injected", "Free disk space.")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError("injected")


@contextmanager
def poisoned(owner: Any, name: str, step: int, poison: Callable[[Any], Any]) -> Iterator[None]:
    """Inside the block the `step`-th result of `owner.name` (from 1) goes through `poison`."""
    original, calls = getattr(owner, name), [0]

    def patched(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        calls[0] += 1
        return poison(result) if calls[0] == step else result

    setattr(owner, name, patched)
    try:
        yield
    finally:
        setattr(owner, name, original)


def with_nan(tensor: Tensor, value: float = float("nan")) -> Tensor:
    """A copy whose first element is no number."""
    broken = tensor.clone()
    broken.view(-1)[0] = value
    return broken
