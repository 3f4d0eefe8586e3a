"""Time stamps of iterations, and the most memory a process has held."""

import json
import resource
import time
from dataclasses import dataclass, field
from typing import Any

UNIT = 1024  # bytes in one of ru_maxrss, on Linux


@dataclass
class Clock:
    """Seconds of each part of each iteration, wall and of the processor."""

    wall: list[dict[str, float]] = field(default_factory=list)
    cpu: list[dict[str, float]] = field(default_factory=list)
    _last: tuple[float, float] | None = None

    def start(self) -> None:
        """An iteration begins where the one before ended."""
        self.wall.append({})
        self.cpu.append({})
        self._last = self._last or (time.perf_counter(), time.process_time())

    def mark(self, part: str) -> None:
        """The part that ends here lasted since the last mark."""
        now, last = (time.perf_counter(), time.process_time()), self._last
        assert last is not None
        for kept, new, old in zip((self.wall, self.cpu), now, last, strict=True):
            kept[-1][part] = kept[-1].get(part, 0.0) + new - old
        self._last = now

    def drop(self) -> None:
        """Forget an iteration that was begun and has no end."""
        self.wall.pop()
        self.cpu.pop()

    def report(self, warmups: int) -> dict[str, Any]:
        """Parts of the timed iterations, and peak memory in bytes."""
        return {
            "wall": self.wall[warmups:],
            "cpu": self.cpu[warmups:],
            "peak_bytes": peak_bytes(),
        }


def peak_bytes() -> int:
    """Most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def show(report: dict[str, Any]) -> None:
    """Print the report as the last line, for the parent to read."""
    print(json.dumps(report), flush=True)
