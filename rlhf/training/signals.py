"""How a run stops at a signal: at once, or, in a training loop, after it has saved."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from rlhf.errors import StoppedError

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 75}  # 75: saved, please requeue
Handler = Callable[[int, FrameType | None], Any]


@dataclass
class StopRequest:
    """A signal that asked to stop.

    Attributes:
        signal: its name; empty: none came.
    """

    signal: str = ""


def stopped_error(name: str, where: str = "", fix: str = "") -> StoppedError:
    """The error that ends a run with the exit code of a signal.

    Args:
        name: of the signal, a key of EXIT_CODES.
        where: place named in the message.
        fix: how to continue, named in the message.
    """
    return StoppedError(f"stopped by {name}", where, fix, EXIT_CODES[name])


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Inside the block SIGTERM and SIGUSR1 raise StoppedError; SIGINT stays KeyboardInterrupt.

    Raises:
        StoppedError: a signal came.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise stopped_error(signal.Signals(number).name)

    with _handled(stop, ("SIGTERM", "SIGUSR1")):
        yield


@contextmanager
def defer_signals() -> Iterator[StopRequest]:
    """Inside the block the first signal is only noted, so that the loop can save; a second stops.

    Yields:
        The request, which the first signal fills in.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if request.signal and callable(previous.get(name)):
            previous[name](number, frame)
        request.signal = name
        _say(f"{name}: this step is finished and saved first; once more stops at once\n")

    with _handled(note, EXIT_CODES) as previous:
        yield request


def _say(text: str) -> None:
    """Print above a live view if there is one; past it if a print is being interrupted."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except RuntimeError:
        os.write(2, text.encode())


@contextmanager
def _handled(handler: Handler, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Handle signals inside the block, in the main thread only; the previous handlers by name."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    numbers = {name: getattr(signal, name) for name in names if hasattr(signal, name)}
    previous = {name: signal.signal(number, handler) for name, number in numbers.items()}
    try:
        yield previous
    finally:
        for name, old in previous.items():
            signal.signal(numbers[name], signal.SIG_DFL if old is None else old)
