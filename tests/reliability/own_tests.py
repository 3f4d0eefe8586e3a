"""Promises whose whole proof is already a test file."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.reliability.outcome import Outcome

TESTS = Path(__file__).parents[1]


def tests_of(*names: str) -> Callable[[int, Path, Path], Outcome]:
    """A scenario that runs test files to the end, slow ones too; a trial is a test."""

    def run(trials: int, tiny: Path, directory: Path) -> Outcome:
        options = ["-p", "no:cacheprovider", f"--basetemp={directory / 'tests'}"]
        command = [sys.executable, "-m", "pytest", *options, *(str(TESTS / x) for x in names)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        passed = re.search(r"(\d+) passed", completed.stdout)
        failed = [
            line for line in completed.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))
        ]
        outcome = Outcome(int(passed[1]) if passed else 0, failed)
        succeeded = completed.returncode == 0 and outcome.trials > 0
        outcome.check(succeeded, f"pytest ended with {completed.returncode}")
        return outcome

    return run
