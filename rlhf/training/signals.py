"""Stop a run at a signal: at once, or, in a training loop, after a checkpoint."""

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

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 75, "SIGHUP": 143}  # 75: requeue me
Handler = Callable[[int, FrameType | None], Any]


@dataclass
class StopRequest:
    """A request to stop by a signal.

    Attributes:
        signal: name of the signal; empty: no signal came.
    """

    signal: str = ""


class SignalInterrupt(BaseException):
    """A signal that ends a command came; no `except Exception` of a library stops it.

    Args:
        name: of the signal, a key of EXIT_CODES.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


_received: list[StopRequest] = []  # of each `raise_on_signal` that is open, the innermost last


def stopped_error(name: str, where: str = "", fix: str = "") -> StoppedError:
    """Build the error that ends a run with the exit code of a signal.

    Args:
        name: name of the signal, a key of EXIT_CODES.
        where: run directory, for the message.
        fix: how to continue, for the message.
    """
    return StoppedError(f"stopped by {name}", where, fix, EXIT_CODES[name])


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """End the block at SIGTERM, SIGUSR1 or SIGHUP; SIGINT stays KeyboardInterrupt.

    Inside the block the signal raises SignalInterrupt. Where Python or a library drops even that,
    as in a callback, the end of the block or the next training loop remembers the signal.

    Raises:
        StoppedError: a signal came.
    """
    _received.append(StopRequest())

    def stop(number: int, _: FrameType | None) -> None:
        _received[-1].signal = signal.Signals(number).name
        raise SignalInterrupt(_received[-1].signal)

    try:
        with _handled(stop, ("SIGTERM", "SIGUSR1", "SIGHUP")):
            yield
            _raise_if_received()
    except SignalInterrupt as interrupt:
        raise stopped_error(interrupt.name) from None
    finally:
        _received.pop()


def _raise_if_received() -> None:
    if _received and (name := _received[-1].signal):
        raise SignalInterrupt(name)


@contextmanager
def defer_signals(*, announce: bool = True) -> Iterator[StopRequest]:
    """Inside the block the first signal is only recorded, so that the loop can save first.

    A second signal stops the process at once.

    Args:
        announce: say on stderr that the step is finished first.

    Yields:
        The request, in which the first signal is recorded.
    """
    _raise_if_received()
    request = StopRequest()

    def record(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if request.signal and name == "SIGHUP":
            return  # the loss of a terminal may be reported several times
        if request.signal and callable(previous.get(name)):
            previous[name](number, frame)
        request.signal = name
        if announce:
            _say(f"{name}: this step is finished and saved first; once more stops at once\n")

    with _handled(record, EXIT_CODES) as previous:
        yield request


def _say(text: str) -> None:
    """Write to stderr, above a live view; directly if the signal interrupted another write."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except RuntimeError:
        os.write(2, text.encode())


@contextmanager
def _handled(handler: Handler, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Handle signals inside the block, in the main thread only; yield the previous handlers.

    A SIGHUP that is ignored, as below `nohup`, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    numbers = {name: getattr(signal, name) for name in names if hasattr(signal, name)}
    if "SIGHUP" in numbers and signal.getsignal(numbers["SIGHUP"]) == signal.SIG_IGN:
        del numbers["SIGHUP"]
    previous = {name: signal.signal(number, handler) for name, number in numbers.items()}
    try:
        yield previous
    finally:
        for name, old in previous.items():
            signal.signal(numbers[name], signal.SIG_DFL if old is None else old)
