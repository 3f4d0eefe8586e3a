"""Lines on stderr that say what is in progress while nothing else is printed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

from rlhf.tracking.activity import activity
from rlhf.tracking.console import CONTROLS, console

FIRST, LONGEST = 2.0, 60.0  # seconds of silence before a line, and at most between two lines
TICK = 0.5  # seconds between two looks

_running = Event()


class Heartbeat:
    """Decides when silence is broken: after 2 seconds, while nothing changes ever more rarely."""

    def __init__(self) -> None:
        self._text, self._wait, self._silent_since, self._last = "", FIRST, 0.0, 0.0

    def line(self, now: float, printed: float, text: str) -> str:
        """Return the line to print at this moment, or an empty one.

        Args:
            now: seconds.
            printed: when something else was printed last.
            text: what is in progress.
        """
        if printed > self._silent_since:
            self._silent_since = self._last = printed
        if text != self._text:
            self._wait = FIRST
        if not text or now - self._last < self._wait:
            return ""
        self._wait = FIRST if text != self._text else min(2 * self._wait, LONGEST)
        self._text, self._last = text, now
        return f"… {text}  {now - self._silent_since:.0f} s"


@contextmanager
def heartbeat() -> Iterator[None]:
    """Inside the block, print what is in progress whenever 2 seconds have passed in silence.

    Inside another such block it does nothing. On a terminal a live view counts as output.
    """
    if _running.is_set():
        yield
        return
    _running.set()
    ended = Event()
    thread = Thread(target=_beat, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _running.clear()


def _beat(ended: Event) -> None:
    beat, begun = Heartbeat(), monotonic()
    while not ended.wait(TICK):
        printed = max(begun, console().last_output)
        line = beat.line(monotonic(), printed, activity())
        if line and not console().quiet:
            print(line.translate(CONTROLS), file=sys.stderr, flush=True)
