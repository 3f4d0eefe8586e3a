"""Run many command lines and print how they ended: `make fuzz COUNT=10000 SEED=0`."""

import resource
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from tests.fuzz.command_lines import command_lines
from tests.fuzz.harness import Outcome, run_line
from tests.fuzz.inputs import write_inputs
from tests.fuzz.workers import kill_workers_on_signals
from tests.reliability.harness import model_directory

WORKERS = 2
ADDRESS_SPACE = 12 * 2**30  # bytes; a line that asks for more gets an out-of-memory error


def main() -> int:
    """Run as many command lines as the first word says, drawn by the seed that is the second."""
    count, seed = map(int, sys.argv[1:])
    kill_workers_on_signals()
    with tempfile.TemporaryDirectory() as place:
        tiny = model_directory(Path(place) / "tiny")
        with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
            part = partial(run_part, count, seed, tiny, Path(place))
            outcomes = [outcome for found in pool.map(part, range(WORKERS)) for outcome in found]
    _report(outcomes)
    return int(any(outcome.fault for outcome in outcomes))


def run_part(count: int, seed: int, tiny: Path, place: Path, part: int) -> list[Outcome]:
    """Run every WORKERS-th command line of `count`, beginning with number `part`."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    directory = write_inputs(place / f"part{part}" / "a" / "b" / "work", tiny)
    lines = islice(command_lines(seed), part, count, WORKERS)
    return [run_line(words, directory) for words in lines]


def _report(outcomes: list[Outcome]) -> None:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    print(dict(Counter(outcome.end for outcome in outcomes).most_common()))
    faults = [outcome for outcome in outcomes if outcome.fault]
    for place, count in Counter(outcome.place for outcome in faults).most_common():
        first = next(outcome for outcome in faults if outcome.place == place)
        print(f"\n{count} × {place}\n  rlhf {first.words}\n{first.fault}")


if __name__ == "__main__":
    sys.exit(main())
