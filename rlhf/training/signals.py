"""What a run does when it is told to stop: at once, or, in a training loop, after it has saved."""

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
    """The name of the signal that asked to stop; empty: none did."""

    signal: str = ""


def stopped(name: str, where: str = "", fix: str = "") -> StoppedError:
    """The error that ends a run with the exit code of a signal."""
    return StoppedError(f"stopped by {name}", where, fix, EXIT_CODES[name])


@contextmanager
def stops_at_once() -> Iterator[None]:
    """Inside the block SIGTERM and SIGUSR1 raise StoppedError; SIGINT stays KeyboardInterrupt."""

    def stop(number: int, _: FrameType | None) -> None:
        raise stopped(signal.Signals(number).name)

    with _handled(stop, ("SIGTERM", "SIGUSR1")):
        yield


@contextmanager
def finishes_first() -> Iterator[StopRequest]:
    """Inside the block the first signal is noted, for the loop to save; a second stops at once."""
    asked = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if asked.signal and callable(before.get(name)):
            before[name](number, frame)
        asked.signal = name
        _say(f"{name}: this step is finished and saved first; once more stops at once\n")

    with _handled(note, EXIT_CODES) as before:
        yield asked


def _say(text: str) -> None:
    """Above a live view, if there is one; past it, if a print is being interrupted."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except RuntimeError:
        os.write(2, text.encode())


@contextmanager
def _handled(handler: Handler, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Signals go to `handler`, which only the main thread may arrange; what they went to before."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    numbers = {name: getattr(signal, name) for name in names if hasattr(signal, name)}
    before = {name: signal.signal(number, handler) for name, number in numbers.items()}
    try:
        yield before
    finally:
        for name, old in before.items():
            signal.signal(numbers[name], signal.SIG_DFL if old is None else old)
