"""Run the command that reads a hostile file, in a process whose memory and time are bounded."""

import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import DataError
from tests.support.hostile import images, models, options, packages, tables
from tests.support.hostile.place import HOSTILE, Place

__all__ = ["HOSTILE", "Place", "attack", "images", "models", "options", "packages", "tables"]
MAX_SECONDS, MAX_MB = 10, 2000
_ADDRESS_SPACE = 12 * 10**9  # bytes; libraries map far more than they use


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        code: its exit code; negative: the signal that ended it.
        seconds: processor time of it and of its children.
        mb: the most memory that it, or one child, held.
        error: what it printed on stderr.
    """

    code: int
    seconds: float
    mb: float
    error: str

    @property
    def fault(self) -> str:
        """What of the promise was not kept; empty: all was."""
        lines = [line.split(":")[0] for line in self.error.splitlines()[-3:]]
        if self.code != DataError.exit_code or lines != ["error", "where", "to do"]:
            return f"exit {self.code}: {self.error[-500:]}"
        within = self.seconds <= MAX_SECONDS and self.mb <= MAX_MB
        return "" if within else f"{self.seconds:.1f} s, {self.mb:.0f} MB"


def attack(name: str, tiny: Path, directory: Path) -> Ending:
    """Write a hostile file and run the command that reads it.

    Args:
        name: in HOSTILE.
        tiny: directory of the tiny model.
        directory: where the file is written, made for it.
    """
    directory.mkdir()
    words = HOSTILE[name](Place(directory, tiny))
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with (directory / "stderr.txt").open("w+") as error:
        child = subprocess.Popen(
            [sys.executable, "-m", "rlhf", *words],
            cwd=directory,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=error,
            preexec_fn=_bound,
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        error.seek(0)
        seconds = used.ru_utime + used.ru_stime
        return Ending(child.returncode, seconds, used.ru_maxrss / 1000, error.read())


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (4 * MAX_SECONDS, 4 * MAX_SECONDS))
