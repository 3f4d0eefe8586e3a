"""Run the command that reads a hostile file, in a process whose memory and time are bounded."""

import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf.cli.main import main
from rlhf.errors import DataError
from rlhf.storage.bounded import mapped_bytes
from tests.support.hostile import images, models, options, packages, tables
from tests.support.hostile.place import HOSTILE, Place

__all__ = ["HOSTILE", "attack", "attack_forked", "run"]
_REGISTERING = (images, models, options, packages, tables)  # by being imported
MAX_SECONDS, MAX_MB = 10, 2000
_PATIENCE = 120  # seconds of the clock, for what waits and computes nothing
_ADDRESS_SPACE = 12 * 10**9  # bytes; libraries map far more than they use


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        command: its name.
        code: its exit code; negative: the signal that ended it.
        seconds: processor time of it and of its children.
        mb: the most memory that it, or one child, held.
        error: what it printed on stderr.
    """

    command: str
    code: int
    seconds: float
    mb: float
    error: str

    def fault(self, start: float = 0.0) -> str:
        """Say what of the promise was not kept; empty: all was.

        Args:
            start: seconds that the same command takes with honest files.
        """
        lines = [line.split(":")[0] for line in self.error.splitlines()[-3:]]
        if self.code != DataError.exit_code or lines != ["error", "where", "to do"]:
            return f"exit {self.code}: {self.error[-500:]}"
        within = self.seconds <= MAX_SECONDS + start and self.mb <= MAX_MB
        return "" if within else f"{self.seconds:.1f} s, {self.mb:.0f} MB"


def attack(name: str, tiny: Path, directory: Path) -> Ending:
    """Write a hostile file and run the command that reads it as a user would.

    Args:
        name: in HOSTILE.
        tiny: directory of the tiny model.
        directory: where the file is written, made for it.
    """
    directory.mkdir()
    return run(HOSTILE[name](Place(directory, tiny)), directory)


def run(words: list[str], directory: Path) -> Ending:
    """Run a command in a new process with an address space and a time of its own."""
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    limits = f"ulimit -v {_ADDRESS_SPACE // 1024}; ulimit -t {4 * MAX_SECONDS}; "
    command = [
        "sh",
        "-c",
        f'{limits}exec timeout {_PATIENCE} "$@"',
        "sh",
        sys.executable,
        "-m",
        "rlhf",
        *words,
    ]
    with (directory / "stderr.txt").open("w") as error:
        child = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=subprocess.DEVNULL, stderr=error
        )
        return _ending(child.pid, words[0], directory)


def attack_forked(name: str, tiny: Path, directory: Path) -> Ending:
    """Write a hostile file and read it in a fork of this process, which has the libraries loaded.

    Args:
        name: in HOSTILE.
        tiny: directory of the tiny model.
        directory: where the file is written, made for it.
    """
    directory.mkdir()
    words = HOSTILE[name](Place(directory, tiny))
    pid = os.fork()
    if not pid:
        try:
            os.chdir(directory)
            os.dup2(os.open("stderr.txt", os.O_WRONLY | os.O_CREAT), 2)
            sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115 the process ends with it
            signal.alarm(_PATIENCE)
            resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
            limit = mapped_bytes() + MAX_MB * 10**6
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            os._exit(main(words))
        finally:
            os._exit(1)
    ending = _ending(pid, words[0], directory)
    return replace(ending, mb=0.0)  # which would count what it was forked from


def _ending(pid: int, command: str, directory: Path) -> Ending:
    _, status, used = os.wait4(pid, 0)
    error, seconds = (directory / "stderr.txt").read_text(), used.ru_utime + used.ru_stime
    return Ending(command, os.waitstatus_to_exitcode(status), seconds, used.ru_maxrss / 1000, error)
