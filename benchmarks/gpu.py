"""Everything that waits for a GPU, in pieces of at most ten minutes.

    sh benchmarks/gpu.sh                        every piece that has no result yet
    sh benchmarks/gpu.sh tests kernels          these alone, again
    sh benchmarks/gpu.sh --tiny                 a quick check on a CPU

Compiled Triton kernels against their references and beside torch.compile and Liger-Kernel, decoding
by CUDA graphs beside eager decoding, memory and time of LLaVA-1.5-7B by phase beside the plan,
whole iterations beside the ideal. Each piece leaves a log and its results in results/gpu/DEVICE/; a
table says what fell short. The exit code is 1 if something did.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import iteration_7b
import llava_7b
import torch
from rich.console import Console
from rich.table import Table

BENCHMARKS = Path(__file__).parent
LIMIT = 600  # seconds of a piece
PLAN = (0.85, 1.15)  # planned over measured memory
SHARES = {"of_update_operations": 0.8, "of_decode_bandwidth": 0.8}  # of the device's peak, at least
Shortfalls = Callable[[Any], Iterator[str]]


@dataclass(frozen=True)
class Piece:
    """A script with its options.

    Attributes:
        command: arguments of Python.
        tiny: further arguments of a quick check on a CPU.
        output: the option that names the file of its results; empty: it has none.
        shortfalls: tells from the results what missed its bar.
    """

    command: Sequence[str]
    tiny: Sequence[str] = ("--tiny",)
    output: str = "--output"
    shortfalls: Shortfalls = lambda _: iter(())


def slow_kernels(results: Any) -> Iterator[str]:
    """Yield the kernels that take more time or memory than their bars."""
    for row in results["rows"]:
        if not row["met"]:
            medians = {name: round(row["ratios"][name]["median"], 2) for name in row["bars"]}
            yield f"{row['kernel']}: {medians}, at most {row['bars']}"


def memory_misses(results: Any) -> Iterator[str]:
    """Yield the cases of `llava_7b` that need too much, or not what was planned."""
    for row in results["cases"]:
        bar, planned = llava_7b.BARS.get(row["case"]), row["planned_over_measured"]
        if bar and row["reserved_gib"] > bar:
            yield f"{row['case']}: {row['reserved_gib']:.1f} GiB, at most {bar}"
        if planned and not PLAN[0] <= planned <= PLAN[1]:
            yield f"{row['case']}: planned {planned:.2f} of the measured memory"


def slow_iterations(results: Any) -> Iterator[str]:
    """Yield what of the cases of `iteration_7b` is far from the device's peak, or from its bar."""
    for row in results["cases"]:
        bar = iteration_7b.BARS[row["case"]]
        if "H200" in results["device"] and row["iteration"] > bar:
            yield f"{row['case']}: {row['iteration']:.1f} s, at most {bar}"
        for name, share in SHARES.items():
            if row[name] < share:
                what = name.replace("_", " ")
                yield f"{row['case']}: {row[name]:.0%} {what}, at least {share:.0%}"


def slow_graphs(results: Any) -> Iterator[str]:
    """Yield the cases of `decode_graphs` in which graphs are no faster than eager decoding."""
    for row in results["cases"]:
        if row["ratio"] is not None and row["ratio"] <= 1:
            yield f"{row['case']}: {row['ratio']:.2f} of the eager tokens/s"


def pieces() -> dict[str, Piece]:
    """Return all pieces by name, the cheap ones first."""
    script = {name: str(BENCHMARKS / f"{name}.py") for name in ("llava_7b", "iteration_7b")}
    kernels = str(BENCHMARKS / "kernel_speed.py")
    found = {
        "tests": Piece(("-m", "pytest", "-q", "tests/kernels"), ("-m", "not slow"), ""),
        "kernels": Piece((kernels,), ("--quick",), "--out", slow_kernels),
        "decode": Piece((str(BENCHMARKS / "decode_graphs.py"),), shortfalls=slow_graphs),
    }
    for case in iteration_7b.CASES:
        command = (script["iteration_7b"], "--cases", case)
        found[f"iteration-{case}"] = Piece(command, shortfalls=slow_iterations)
    for case in llava_7b.CASES:
        command = (script["llava_7b"], "--cases", case)
        found[f"memory-{case.replace('/', '-')}"] = Piece(command, shortfalls=memory_misses)
    return found


def run(name: str, piece: Piece, directory: Path, *, tiny: bool) -> dict[str, Any]:
    """Run a piece, and write `NAME.log`, `NAME.json` and, if it ended well, `NAME.done`.

    Returns:
        Its exit code (124: it took too long) and seconds.
    """
    results, log = directory / f"{name}.json", directory / f"{name}.log"
    command = [sys.executable, *piece.command, *(piece.tiny if tiny else ())]
    command += [piece.output, str(results)] if piece.output else []
    start = time.monotonic()
    with log.open("w") as file:
        try:
            code = subprocess.run(command, stdout=file, stderr=file, timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            code = 124
    outcome = {"exit code": code, "seconds": round(time.monotonic() - start, 1)}
    if code == 0:
        (directory / f"{name}.done").write_text(json.dumps(outcome) + "\n")
    return outcome


def report(name: str, piece: Piece, outcome: dict[str, Any], directory: Path) -> list[str]:
    """Return what fell short in a piece."""
    if outcome["exit code"]:
        return [f"exit code {outcome['exit code']}, see {name}.log"]
    if not piece.output:
        return []
    return [*piece.shortfalls(json.loads((directory / f"{name}.json").read_text()))]


def main(argv: Sequence[str] | None = None) -> int:
    known = pieces()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="PIECE", help=" ".join(known))
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--directory", type=Path, default=BENCHMARKS / "results" / "gpu")
    arguments = parser.parse_args(argv)
    if unknown := {*arguments.names} - {*known}:
        parser.error(f"no piece {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    device = "cpu" if arguments.tiny else torch.cuda.get_device_name()
    directory = arguments.directory / device.replace(" ", "-")
    directory.mkdir(parents=True, exist_ok=True)
    table, misses = Table("piece", "seconds", "what fell short", title=device), 0
    for name in arguments.names or known:
        done = directory / f"{name}.done"
        is_new = arguments.names or not done.exists()
        if is_new:
            done.unlink(missing_ok=True)
            outcome = run(name, known[name], directory, tiny=arguments.tiny)
        else:
            outcome = json.loads(done.read_text())
        found = report(name, known[name], outcome, directory)
        misses += len(found)
        print(f"{name}: {outcome['seconds']} s, {'; '.join(found) or 'all bars met'}", flush=True)
        table.add_row(name, str(outcome["seconds"]), "\n".join(found))
    Console().print(table)
    return int(misses > 0)


if __name__ == "__main__":
    sys.exit(main())
