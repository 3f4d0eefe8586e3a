"""Times of an iteration of ours and of trl's trainers on the same LLaVA.

    python benchmarks/compare_trl.py --install                every row; hours on two cores
    python benchmarks/compare_trl.py --cases same 2k groups/32k --add
    python benchmarks/compare_trl.py --tiny                   a quick check of the script

First both compute the same rollout: if log-probabilities, advantages, losses or gradient norms
differ by more than 1e-5 in float32, no times are taken and the exit code is 1. Then each row runs
in mirrored order (theirs, ours, ours, theirs) in fresh processes of one thread. Every iteration has
new images, and responses of a fixed length. Rows whose environment is not installed are measured
for ours alone. Prints a table and writes results/compare_trl.json.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from baselines.environments import DIRECTORY, RELEASES, install
from baselines.parity import parity_case
from baselines.rows import ROWS, SIZES, TINY, Row, select_rows
from baselines.runs import Job, ParityError, Runner
from baselines.timing_statistics import Quartiles, quartiles, ratio, seconds
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "compare_trl.json"
COLUMNS = (
    "setting",
    "against",
    "dtype",
    "V/img",
    "theirs s",
    "ours s",
    "ratio [IQR]",
    "of CPU s",
    "bar",
    "memory",
)


def measure(
    selected: Sequence[tuple[Row, str]], runner: Runner, changes: dict[str, Any], rounds: int
) -> list[dict[str, Any]]:
    """Measure rows and return their records; rows with the same baseline are run together."""
    sides = {(row.name, size): _jobs(row, size, changes) for row, size in selected}
    for row, size in selected:
        if row.needs_parity and runner.can_run(sides[row.name, size][0]):
            runner.check_parity(sides[row.name, size][0].case)
    ours_by_theirs: dict[Job, dict[Job, None]] = {}
    for theirs, ours in sides.values():
        ours_by_theirs.setdefault(theirs, {})[ours] = None
    for theirs, own_jobs in ours_by_theirs.items():
        if runner.can_run(theirs):
            runner.compare([theirs, *own_jobs], rounds)
        else:
            runner.log(f"skipped: {runner.install_hint(theirs)}")
            runner.compare([*own_jobs], rounds)
    return [metrics(row, size, *sides[row.name, size], runner) for row, size in selected]


def _jobs(row: Row, size: str, changes: dict[str, Any]) -> tuple[Job, Job]:
    theirs, ours = row.cases(size, changes)
    return Job(row.theirs[0], theirs), Job(row.ours[0], ours)


def metrics(row: Row, size: str, theirs: Job, ours: Job, runner: Runner) -> dict[str, Any]:
    """Return the record of a row, without their times where they were skipped."""
    record: dict[str, Any] = {
        "case": f"{row.name}/{size}",
        "setting": row.setting,
        "against": row.against,
        "part": row.part,
        "bar": row.bar.get(size, ""),
        "processor": _processor(),
        "sizes": {"theirs": vars(theirs.case), "ours": vars(ours.case)},
        "parity": runner.parity.get(parity_case(theirs.case), {}),
    }
    for clock in ("wall", "cpu"):
        both = [_seconds(job, row.part, clock, runner) for job in (theirs, ours)]
        names = ("theirs", "ours")
        record[clock] = {n: quartiles(x)._asdict() for n, x in zip(names, both, strict=True) if x}
        record[clock] |= {"iterations": dict(zip(names, both, strict=True))}
        if both[0]:
            record[clock]["ratio"] = ratio(*both)._asdict()
    jobs = {"theirs": theirs, "ours": ours}
    record["memory"] = {n: runner.memory(e) for n, e in jobs.items() if e in runner.reports}
    record["parts"] = {n: _parts(e, runner) for n, e in jobs.items() if e in runner.reports}
    return record


def _seconds(job: Job, part: str, clock: str, runner: Runner) -> list[float]:
    if job not in runner.reports:
        return []
    return seconds(runner.iterations(job, clock), part)


def _parts(job: Job, runner: Runner) -> dict[str, float]:
    """Return the median wall seconds of each part."""
    iterations = runner.iterations(job, "wall")
    return {
        part: quartiles([seconds[part] for seconds in iterations]).median for part in iterations[0]
    }


def table(records: Sequence[dict[str, Any]]) -> Table:
    """Return a table with a line for each record."""
    lines = Table(*COLUMNS)
    for record in records:
        lines.add_row(*_cells(record))
    return lines


def _cells(record: dict[str, Any]) -> list[str]:
    ours, theirs = record["sizes"]["ours"], record["sizes"]["theirs"]
    dtypes = dict.fromkeys((theirs["dtype"], ours["dtype"]))
    wall, cpu, memory = record["wall"], record["cpu"], record["memory"]
    memory_ratio = "–"
    if "theirs" in memory and memory["theirs"] > 0:
        memory_ratio = f"{memory['ours'] / memory['theirs']:.2f}"
    return [
        record["setting"],
        record["against"],
        " / ".join(dtypes),
        f"{ours['vocab_size']}/{ours['image_tokens']}",
        f"{wall['theirs']['median']:.3g}" if "theirs" in wall else "–",
        f"{wall['ours']['median']:.3g}",
        _ratio(Quartiles(**wall["ratio"])) if "ratio" in wall else "–",
        f"{cpu['ratio']['median']:.2f}" if "ratio" in cpu else "–",
        f"≥ {record['bar']}" if record["bar"] else "",
        memory_ratio,
    ]


def _ratio(ratio: Quartiles) -> str:
    return f"{ratio.median:.2f} [{ratio.q1:.2f}, {ratio.q3:.2f}]"


def merge_records(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of two runs in order; a new record replaces the old one of its case."""
    records = {record["case"]: record for record in (*old, *new)}
    order = [f"{row.name}/{size}" for row, size in select_rows([])]
    return sorted(records.values(), key=lambda record: order.index(record["case"]))


def to_json(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is written: records and versions, without the name of the machine."""
    names = ("torch", "transformers", "peft", "accelerate")
    return {
        "versions": {name: version(name) for name in names},
        "trl": sorted({name for name in RELEASES.values() if name}),
        "python": platform.python_version(),
        "threads": 1,
        "rows": records,
    }


def _processor() -> str:
    """Return the model name that Linux gives the processor."""
    source = Path("/proc/cpuinfo")
    lines = source.read_text().splitlines() if source.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = f"{', '.join(row.name for row in ROWS)}; of size {' or '.join(SIZES)}"
    parser.add_argument("--cases", nargs="+", default=[], metavar="NAME[/SIZE]", help=names)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each row, in mirrored order")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, seconds")
    parser.add_argument("--install", action="store_true", help="make missing environments first")
    parser.add_argument("--environments", type=Path, default=DIRECTORY)
    parser.add_argument("--add", action="store_true", help="keep the other rows of the results")
    parser.add_argument("--output", type=Path, help=f"default {RESULTS.name}; with --tiny none")
    arguments = parser.parse_args(argv)
    console = Console()
    if not console.is_terminal:
        console.width = 160
    if arguments.install:
        install(arguments.environments)
    try:
        selected = select_rows(arguments.cases)
    except ValueError as error:
        parser.error(str(error))
    if arguments.tiny:
        selected = [(row, size) for row, size in selected if size == next(iter(SIZES))]
    with tempfile.TemporaryDirectory() as scratch:
        runner = Runner(Path(scratch), arguments.environments, console.log)
        try:
            records = measure(selected, runner, TINY if arguments.tiny else {}, arguments.rounds)
        except ParityError as error:
            console.print(str(error))
            return 1
    console.print(table(records))
    if output := arguments.output or (None if arguments.tiny else RESULTS):
        old = json.loads(output.read_text())["rows"] if arguments.add and output.exists() else []
        output.write_text(json.dumps(to_json(merge_records(old, records)), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
