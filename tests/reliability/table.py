"""The promises of the documentation, each tried at full count: `make reliability`.

Writes docs/pages/results/reliability.md and benchmarks/results/reliability.json. With names of
scenarios, as in `make reliability ONLY="kills signals"`, only these are run and replaced there.
`--part FILE` tries a part of each and writes the metrics to a file, for the tests.
"""

import json
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rlhf.tracking.console import say, stage, table
from tests.reliability.harness import model_directory
from tests.reliability.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE = ROOT / "docs/pages/results/reliability.md"
INTRO = """# Reliability

Each promise is tried by doing the damage: real trainings of a tiny model, killed, cut, starved and
lied to. `make reliability` runs every row at full count and writes this page; the tests run a part
of each. One row again: `make reliability ONLY=kills`. The row `outbox` needs Chromium, which
`make browser-test` installs.

| name | promise | trials | losses | seconds | on the way |
|---|---|---:|---:|---:|---|
"""


def measure(name: str, *, part: bool) -> dict[str, Any]:
    """Run one scenario, in part or at full count."""
    scenario = SCENARIOS[name]
    stage(f"{name}: {scenario.promise}")
    with tempfile.TemporaryDirectory() as directory:
        tiny, working_directory = (
            model_directory(Path(directory) / "tiny"),
            Path(directory) / "place",
        )
        working_directory.mkdir()
        started = time.perf_counter()
        outcome = scenario.run(scenario.reduced if part else scenario.full, tiny, working_directory)
    seconds = round(time.perf_counter() - started, 1)
    say(f"{outcome.trials} trials, {len(outcome.losses)} losses, {seconds} s {outcome.notes}")
    for loss in outcome.losses[:10]:
        say(f"  {loss}", "red")
    return {"promise": scenario.promise, **asdict(outcome), "seconds": seconds}


def page(rows: dict[str, dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [INTRO.rstrip("\n")]
    for name in (name for name in SCENARIOS if name in rows):
        row = rows[name]
        notes = ", ".join(f"{note}: {count:,}" for note, count in row["notes"].items())
        cells = (name, row["promise"], f"{row['trials']:,}", len(row["losses"]), row["seconds"])
        lines.append(f"| {' | '.join(map(str, (*cells, notes)))} |")
    return "\n".join(lines) + "\n"


def write(rows: dict[str, dict[str, Any]]) -> None:
    """The results and the page."""
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    record = {"machine": machine, "torch": torch.__version__, "rows": rows}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(page(rows))


def main() -> int:
    """Run the scenarios named on the command line, or all; 1 if anything was lost."""
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--part"]:
        names = [name for name, scenario in SCENARIOS.items() if scenario.reduced]
        rows = {name: measure(name, part=True) for name in names}
        Path(sys.argv[2]).write_text(json.dumps(rows))
        return 0
    names = sys.argv[1:] or list(SCENARIOS)
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    for name in names:
        rows[name] = measure(name, part=False)
        write(rows)
    cells = [(n, rows[n]["trials"], len(rows[n]["losses"]), rows[n]["seconds"]) for n in names]
    table("reliability", ("scenario", "trials", "losses", "seconds"), cells)
    return int(any(row["losses"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
