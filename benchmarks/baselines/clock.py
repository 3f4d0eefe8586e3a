"""Times of the parts of each iteration, and the peak memory of the process."""

import json
import resource
import time
from dataclasses import dataclass, field
from typing import Any

RU_MAXRSS_BYTES = 1024  # ru_maxrss counts KiB on Linux


@dataclass
class Clock:
    """Seconds of each part of each iteration: wall time and CPU time."""

    wall: list[dict[str, float]] = field(default_factory=list)
    cpu: list[dict[str, float]] = field(default_factory=list)
    _last: tuple[float, float] | None = None

    def start(self) -> None:
        """Begin an iteration, at the time at which the last one ended."""
        self.wall.append({})
        self.cpu.append({})
        self._last = self._last or (time.perf_counter(), time.process_time())

    def mark(self, part: str) -> None:
        """Add the time since the last mark to a part of the current iteration."""
        now, last = (time.perf_counter(), time.process_time()), self._last
        assert last is not None
        for iterations, new, old in zip((self.wall, self.cpu), now, last, strict=True):
            iterations[-1][part] = iterations[-1].get(part, 0.0) + new - old
        self._last = now

    def drop_iteration(self) -> None:
        """Remove the current iteration, which was begun and not finished."""
        self.wall.pop()
        self.cpu.pop()

    def report(self, warmup_iterations: int) -> dict[str, Any]:
        """Return the parts of the iterations after the warm-up, and peak memory in bytes."""
        return {
            "wall": self.wall[warmup_iterations:],
            "cpu": self.cpu[warmup_iterations:],
            "peak_bytes": peak_bytes(),
        }


def peak_bytes() -> int:
    """Return the peak resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RU_MAXRSS_BYTES


def print_report(report: dict[str, Any]) -> None:
    """Print the report as one JSON line, which the parent process reads."""
    print(json.dumps(report), flush=True)
