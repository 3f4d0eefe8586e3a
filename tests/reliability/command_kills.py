"""Every command that writes, killed before any of its file operations, and given again."""

import os
import random
import shutil
import sys
from pathlib import Path

from tests.reliability import command_lines
from tests.reliability.command_lines import COMMANDS, WITH_RUNS, left_behind
from tests.reliability.harness import fork
from tests.reliability.outcome import Outcome

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
KILLED = 9


def command_kills(trials: int, tiny: Path, directory: Path) -> Outcome:
    """Commands in turn, killed once or twice and given again: they end as if they had not been.

    The kill comes before a file operation in the command's directory, drawn from all that an
    uninterrupted run makes. `RLHF_COMMANDS=sft,demo` tries these alone.
    """
    outcome = Outcome()
    command_lines.write_files(directory, tiny)
    chosen = os.environ.get("RLHF_COMMANDS", ",".join(COMMANDS)).split(",")
    for number, name in enumerate(chosen):
        if turns := len(range(number, trials, len(chosen))):
            _kill_one_command(name, turns, directory, outcome)
    return outcome


def _kill_one_command(name: str, trials: int, directory: Path, outcome: Outcome) -> None:
    """Try one command so often, and compare what it leaves with an uninterrupted one."""
    whole, rng = directory / f"{name}-whole", random.Random(name)
    counted = fork(lambda connection: connection.send(_run(name, whole, 0)))
    counted.wait()
    code, operations = counted.received()[0]
    outcome.check(code == 0, f"{name}: exit {code} without a kill")
    expected, place = left_behind(whole), directory / f"{name}-killed"
    for trial in range(trials):
        outcome.trials += 1
        kills = [rng.randint(1, operations) for _ in range(1 + trial % 2)]
        codes = [_exit_code(name, place, kill) for kill in (*kills, 0)]
        title = f"{name}, trial {trial}, killed before {kills}"
        written = (0,) if name in WITH_RUNS else (0, 2)  # 2: a whole output is not overwritten
        outcome.check(codes[-1] in written, f"{title}: then exit {codes[-1]}")
        found = left_behind(place)
        different = [x for x in found.keys() | expected if found.get(x) != expected.get(x)]
        outcome.check(not different, f"{title}: {sorted(different)[:5]}")
        outcome.note(f"{name}: kills", codes.count(KILLED))
        shutil.rmtree(place, ignore_errors=True)


def _exit_code(name: str, place: Path, kill_at: int) -> int:
    return fork(lambda _: _run(name, place, kill_at)[0]).wait()


def _run(name: str, place: Path, kill_at: int) -> tuple[int, int]:
    """Run a command and exit before one of its file operations; 0: before none.

    Returns:
        The exit code, and how many operations there were.
    """
    operations = 0

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal operations
        if event in OPERATIONS and _inside(arguments[0], place):
            operations += 1
            if operations == kill_at:
                os._exit(KILLED)

    sys.addaudithook(audit)
    words = ["resume=auto"] if name in WITH_RUNS else []
    return command_lines.run(name, place, *words), operations


def _inside(path: object, place: Path) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    return Path.cwd().joinpath(os.fsdecode(path)).is_relative_to(place)
