"""Run every case and print what happened: `make cases`."""

import re
import sys
import tempfile
from pathlib import Path

from rlhf.tracking.console import table
from tests.cases.case import Outcome, cases, run
from tests.reliability.harness import model_directory

MAX_CHARACTERS = 200  # of what a command printed, in the table


def main() -> int:
    """Run the cases named on the command line, or all; 1 if any is not as expected."""
    rows, failed = [], 0
    with tempfile.TemporaryDirectory() as place:
        tiny = model_directory(Path(place) / "tiny")
        for case in cases():
            if sys.argv[1:] and case.directory.name not in sys.argv[1:]:
                continue
            for outcome in run(case, tiny / "model", Path(place) / case.directory.name):
                failed += bool(outcome.faults)
                rows.append(_row(case.directory.name, outcome))
    table("cases", ("case", "command", "expected", "what happened", "ok"), rows)
    return int(failed > 0)


def _row(name: str, outcome: Outcome) -> tuple[str, ...]:
    happened = "; ".join(outcome.faults) or _telling_line(outcome)
    ok = "no" if outcome.faults else "yes"
    cells = name, f"rlhf {outcome.step.command}", outcome.step.expected
    return *cells, f"exit {outcome.exit}: {happened[:MAX_CHARACTERS]}", ok


def _telling_line(outcome: Outcome) -> str:
    """The first printed line that was looked for, else the last one."""
    lines = [line.strip() for line in outcome.printed.splitlines() if line.strip()]
    found = (line for line in lines if any(re.search(x, line) for x in outcome.step.says))
    return next(found, (lines or [""])[-1])


if __name__ == "__main__":
    sys.exit(main())
