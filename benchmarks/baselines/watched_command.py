"""Runs a command of rlhf and writes what each phase of it took.

    python -m baselines.watched_command OUTPUT.json ppo model.path=…

Every tenth of a second the memory of the process is charged to what is in progress. Memory is told
apart: anonymous memory the process must keep, pages of mapped files the kernel may drop.
"""

import json
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from rlhf.cli.main import main
from rlhf.tracking.activity import activity

TICK = 0.1  # seconds
PHASES = {  # what an activity contains: phase, the first that fits
    "optimizer step": "update",
    "reading prompts": "prefill",
    "sampling": "decode",
    "vision tower": "vision",
    "log-probabilities": "scoring",
    "scores": "scoring",
    "micro-batches": "scoring",
    "loading": "loading",
}


def phase_of(text: str) -> str:
    """Return the phase of an activity, `other` if none fits."""
    return next((phase for part, phase in PHASES.items() if part in text), "other")


def memory() -> dict[str, int]:
    """Return bytes of anonymous memory and of mapped files that the process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = dict(line.split(":") for line in lines if line.startswith("Rss"))
    return {name: int(sizes[f"Rss{name}"].split()[0]) * 1024 for name in ("Anon", "File")}


class Watch:
    """Seconds, and peak memory in bytes, by phase.

    Attributes:
        phases: phase to its values.
    """

    def __init__(self) -> None:
        self.phases: defaultdict[str, dict[str, float]] = defaultdict(
            lambda: {"seconds": 0.0, "anonymous": 0, "mapped": 0}
        )
        self._last = time.monotonic()

    def look(self) -> None:
        """Charge the time since the last look, and the memory now, to what is in progress."""
        now, held = time.monotonic(), memory()
        row = self.phases[phase_of(activity())]
        row["seconds"] += now - self._last
        row["anonymous"] = max(row["anonymous"], held["Anon"])
        row["mapped"] = max(row["mapped"], held["File"])
        self._last = now


def watched(words: list[str]) -> tuple[int, dict[str, Any]]:
    """Run a command; return its exit code and the values of each phase."""
    watch, ended = Watch(), threading.Event()

    def look() -> None:
        while not ended.wait(TICK):
            watch.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        code = main(words)
    finally:
        ended.set()
        thread.join()
    watch.look()
    return code, dict(watch.phases)


if __name__ == "__main__":
    exit_code, phases = watched(sys.argv[2:])
    if exit_code == 0:
        Path(sys.argv[1]).write_text(json.dumps(phases, indent=2) + "\n")
    sys.exit(exit_code)
