"""Ours against trl on the same LLaVA, side by side.

    python benchmarks/compare_trl.py --install                every row; hours on two cores
    python benchmarks/compare_trl.py --cases same 2k groups/32k --add
    python benchmarks/compare_trl.py --tiny                   a tiny model: does the script run?

First one rollout goes through both: if log-probabilities, advantages, losses or gradient norms are
more than 1e-5 apart in float32, no time is taken and the exit code is 1. Then each row runs there
and back (theirs, ours, ours, theirs) in fresh processes of one thread. Every iteration has
images that were not seen before, and responses of a fixed length. Rows whose environment is not
installed are measured for ours alone. Prints a table and writes results/compare_trl.json.
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
from baselines.pairing import Spread, ratio, seconds, spread
from baselines.parity import parity_case
from baselines.rows import ROWS, SIZES, TINY, Row, chosen
from baselines.runs import Differs, Entrant, Runs
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "compare_trl.json"
COLUMNS = (
    "ladder",
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
    picked: Sequence[tuple[Row, str]], runs: Runs, changes: dict[str, Any], rounds: int
) -> list[dict[str, Any]]:
    """Metrics of each row; those against the same opponent are measured together."""
    sides = {(row.name, size): _entrants(row, size, changes) for row, size in picked}
    for row, size in picked:
        if row.proven and runs.can_run(sides[row.name, size][0]):
            runs.prove(sides[row.name, size][0].case)
    together: dict[Entrant, dict[Entrant, None]] = {}
    for theirs, ours in sides.values():
        together.setdefault(theirs, {})[ours] = None
    for theirs, several in together.items():
        if runs.can_run(theirs):
            runs.compare([theirs, *several], rounds)
        else:
            runs.say(f"skipped: {runs.absent(theirs)}")
            runs.compare([*several], rounds)
    return [metrics(row, size, *sides[row.name, size], runs) for row, size in picked]


def _entrants(row: Row, size: str, changes: dict[str, Any]) -> tuple[Entrant, Entrant]:
    theirs, ours = row.cases(size, changes)
    return Entrant(row.theirs[0], theirs), Entrant(row.ours[0], ours)


def metrics(row: Row, size: str, theirs: Entrant, ours: Entrant, runs: Runs) -> dict[str, Any]:
    """A row as it is written; without theirs where it was skipped."""
    found: dict[str, Any] = {
        "case": f"{row.name}/{size}",
        "ladder": row.ladder,
        "against": row.against,
        "part": row.part,
        "bar": row.bar.get(size, ""),
        "processor": _processor(),
        "sizes": {"theirs": vars(theirs.case), "ours": vars(ours.case)},
        "parity": runs.proven.get(parity_case(theirs.case), {}),
    }
    for clock in ("wall", "cpu"):
        both = [_seconds(entrant, row.part, clock, runs) for entrant in (theirs, ours)]
        names = ("theirs", "ours")
        found[clock] = {n: spread(x)._asdict() for n, x in zip(names, both, strict=True) if x}
        found[clock] |= {"iterations": dict(zip(names, both, strict=True))}
        if both[0]:
            found[clock]["ratio"] = ratio(*both)._asdict()
    done = {"theirs": theirs, "ours": ours}
    found["memory"] = {n: runs.memory(e) for n, e in done.items() if e in runs.reports}
    found["parts"] = {n: _parts(e, runs) for n, e in done.items() if e in runs.reports}
    return found


def _seconds(entrant: Entrant, part: str, clock: str, runs: Runs) -> list[float]:
    if entrant not in runs.reports:
        return []
    return seconds(runs.iterations(entrant, clock), part)


def _parts(entrant: Entrant, runs: Runs) -> dict[str, float]:
    """Median wall seconds of each part."""
    iterations = runs.iterations(entrant, "wall")
    return {part: spread([one[part] for one in iterations]).middle for part in iterations[0]}


def table(found: Sequence[dict[str, Any]]) -> Table:
    """A line for each row."""
    lines = Table(*COLUMNS)
    for one in found:
        lines.add_row(*_cells(one))
    return lines


def _cells(one: dict[str, Any]) -> list[str]:
    ours, theirs = one["sizes"]["ours"], one["sizes"]["theirs"]
    kinds = dict.fromkeys((theirs["dtype"], ours["dtype"]))
    wall, cpu, memory = one["wall"], one["cpu"], one["memory"]
    share = "–"
    if "theirs" in memory and memory["theirs"] > 0:
        share = f"{memory['ours'] / memory['theirs']:.2f}"
    return [
        one["ladder"],
        one["against"],
        " / ".join(kinds),
        f"{ours['vocabulary']}/{ours['image_tokens']}",
        f"{wall['theirs']['middle']:.3g}" if "theirs" in wall else "–",
        f"{wall['ours']['middle']:.3g}",
        _ratio(Spread(**wall["ratio"])) if "ratio" in wall else "–",
        f"{cpu['ratio']['middle']:.2f}" if "ratio" in cpu else "–",
        f"≥ {one['bar']}" if one["bar"] else "",
        share,
    ]


def _ratio(found: Spread) -> str:
    return f"{found.middle:.2f} [{found.low:.2f}, {found.high:.2f}]"


def joined(kept: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of an earlier run, and those of this one instead of or beside them, in order."""
    rows = {one["case"]: one for one in (*kept, *found)}
    order = [f"{row.name}/{size}" for row, size in chosen([])]
    return sorted(rows.values(), key=lambda one: order.index(one["case"]))


def written(found: list[dict[str, Any]]) -> dict[str, Any]:
    """All that is kept: no name of a machine."""
    names = ("torch", "transformers", "peft", "accelerate")
    return {
        "versions": {name: version(name) for name in names},
        "trl": sorted({name for name in RELEASES.values() if name}),
        "python": platform.python_version(),
        "threads": 1,
        "rows": found,
    }


def _processor() -> str:
    """As Linux names it."""
    source = Path("/proc/cpuinfo")
    lines = source.read_text().splitlines() if source.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = f"{', '.join(row.name for row in ROWS)}; of size {' or '.join(SIZES)}"
    parser.add_argument("--cases", nargs="+", default=[], metavar="NAME[/SIZE]", help=names)
    parser.add_argument("--rounds", type=int, default=1, help="there and back, so many times")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, seconds")
    parser.add_argument("--install", action="store_true", help="make missing environments first")
    parser.add_argument("--environments", type=Path, default=DIRECTORY)
    parser.add_argument("--add", action="store_true", help="keep the other rows of the file")
    parser.add_argument("--output", type=Path, help=f"default {RESULTS.name}; with --tiny none")
    given = parser.parse_args(words)
    console = Console()
    if not console.is_terminal:
        console.width = 160
    if given.install:
        install(given.environments)
    try:
        picked = chosen(given.cases)
    except ValueError as error:
        parser.error(str(error))
    if given.tiny:
        picked = [(row, size) for row, size in picked if size == next(iter(SIZES))]
    with tempfile.TemporaryDirectory() as scratch:
        runs = Runs(Path(scratch), given.environments, console.log)
        try:
            found = measure(picked, runs, TINY if given.tiny else {}, given.rounds)
        except Differs as error:
            console.print(str(error))
            return 1
    console.print(table(found))
    if output := given.output or (None if given.tiny else RESULTS):
        kept = json.loads(output.read_text())["rows"] if given.add and output.exists() else []
        output.write_text(json.dumps(written(joined(kept, found)), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
