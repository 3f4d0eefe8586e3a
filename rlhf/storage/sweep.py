"""Write and read a sweep: what varies in it, and how each of its runs ended.

Each run is a member with a directory of its own in that of the sweep. It writes `member.json` there
when it starts and when it ends, so that many may do so at once. `sweep.json` is written when the
sweep begins and when it ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal

import msgspec

from rlhf.errors import DataError
from rlhf.storage.atomic import replaced_file
from rlhf.storage.json_files import read_json
from rlhf.storage.run_directory import SWEEP_FILE, run_age

MEMBER_FILE = "member.json"
Status = Literal["running", "done", "failed", "interrupted"]
Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        number: its place in the order in which members start, from 0.
        overrides: swept option to its value, as texts to show.
        status: how far it is.
        exit_code: of its command; None until it ends.
        objective: the value by which members are compared; None if there is none.
        metrics: the numbers of its summary, by name.
        error: what is wrong, where, and what to do; None if nothing is.
        directory: the name of its directory in that of the sweep; set when it is written.
    """

    number: int
    overrides: Mapping[str, str]
    status: Status = "running"
    exit_code: int | None = None
    objective: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: tuple[str, str, str] | None = None
    directory: str = ""


@dataclass(frozen=True)
class Sweep:
    """A sweep: one command with many values of some options.

    Attributes:
        command: e.g. ppo.
        objective: the metric that members are compared by; "" for none.
        direction: whether a larger or a smaller objective is better.
        options: the swept options, those of the members included.
        planned: how many members there will be; None if that is not known.
        finished: whether the sweep ended, rather than its members one by one.
        members: in the order in which they started.
        words: of the command line, by which the sweep is found again.
    """

    command: str
    objective: str = ""
    direction: Direction = "maximize"
    options: tuple[str, ...] = ()
    planned: int | None = None
    finished: bool = False
    members: tuple[Member, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether every member ended without an error."""
        done = sum(member.status == "done" for member in self.members)
        return self.finished and done == max(len(self.members), self.planned or 0)


def is_sweep(path: Path) -> bool:
    """Tell whether a path is the directory of a sweep."""
    return (path / SWEEP_FILE).is_file()


def write_sweep(path: Path, sweep: Sweep) -> None:
    """Write sweep.json, whole or not at all.

    Raises:
        ResourceError: it cannot be written.
    """
    _write(path / SWEEP_FILE, sweep)


def write_member(directory: Path, member: Member) -> None:
    """Write member.json, whole or not at all; many members may do so at once.

    Args:
        directory: of the member, in that of the sweep.
        member: what is known of it.

    Raises:
        ResourceError: it cannot be written.
    """
    _write(directory / MEMBER_FILE, replace(member, directory=directory.name))


def read_member(directory: Path) -> Member | None:
    """Read what is known of a member; None if the directory belongs to no sweep.

    Raises:
        DataError: its file cannot be read.
    """
    file = directory / MEMBER_FILE
    return replace(read_json(file, Member), directory=directory.name) if file.is_file() else None


def read_sweep_file(path: Path) -> Sweep:
    """Read sweep.json as it was last written, without looking at the members since.

    Raises:
        DataError: the directory is none of a sweep, or the file cannot be read.
    """
    if not is_sweep(path):
        fix = "name the directory of a sweep, runs/NAME/COUNTER-TIME"
        raise DataError("this is no sweep", str(path), fix)
    return read_json(path / SWEEP_FILE, Sweep)


def read_sweep(path: Path) -> Sweep:
    """Read a sweep with its members as they are now, whether it ended or not.

    Raises:
        DataError: the directory is none of a sweep, or one of its files cannot be read.
    """
    sweep = read_sweep_file(path)
    by_directory = {member.directory: member for member in sweep.members}
    for member in map(read_member, path.glob("*/")):
        if member:
            by_directory[member.directory] = member
    members = sorted(by_directory.values(), key=lambda member: (member.number, member.directory))
    options = dict.fromkeys([*sweep.options, *(name for x in members for name in x.overrides)])
    return replace(sweep, options=tuple(options), members=tuple(members))


def unfinished_sweep(directory: Path, command: str, words: tuple[str, ...]) -> Path | None:
    """Find the newest sweep of a command line, if a member of it is not done.

    Args:
        directory: holds the sweeps of an experiment.
        command: e.g. ppo.
        words: those of the command line.

    Returns:
        The sweep's directory; None if the newest sweep of these words is done, or there is none.

    Raises:
        DataError: a file of a sweep cannot be read.
    """
    paths = (file.parent for file in directory.glob(f"*/{SWEEP_FILE}"))
    for path in sorted(paths, key=run_age, reverse=True):
        sweep = read_sweep(path)
        if (sweep.command, sweep.words) == (command, words):
            return None if sweep.done else path
    return None


def finish_sweep(path: Path) -> Sweep:
    """Write sweep.json with all members when the last one has ended, and return the sweep.

    A member that still says that it runs was killed before it could say how it ended: it becomes an
    interrupted one.

    Raises:
        DataError: a file of the sweep cannot be read.
        ResourceError: one cannot be written.
    """
    for member in read_sweep(path).members:
        if member.status == "running":
            write_member(path / member.directory, replace(member, status="interrupted"))
    sweep = replace(read_sweep(path), finished=True)
    write_sweep(path, sweep)
    return sweep


def summary_numbers(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the finite numbers of a summary by name; those of an inner table as `table/name`."""
    numbers = dict[str, float]()
    for name, value in summary.items():
        if isinstance(value, Mapping):
            numbers |= summary_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            numbers[f"{prefix}{name}"] = value
    return numbers


def sweep_table(sweep: Sweep) -> tuple[list[str], list[tuple[object, ...]]]:
    """Lay out a sweep for `console.table`.

    Returns:
        The headings (swept options, objective, status), and a row for each member: the best
        objective first, then members without one, at last those that failed, with the reason.
    """
    objective = [sweep.objective] if sweep.objective else []
    rows: list[tuple[object, ...]] = []
    for member in sorted(sweep.members, key=lambda member: _rank(member, sweep.direction)):
        values = [member.overrides.get(name, "–") for name in sweep.options]
        result = ["–" if member.objective is None else member.objective] if objective else []
        rows.append((*values, *result, outcome(member)))
    return [*sweep.options, *objective, "status"], rows


def outcome(member: Member) -> str:
    """Return the status of a member, with the reason if it failed."""
    if member.status != "failed":
        return member.status
    if member.error is None:
        return f"failed with exit code {member.exit_code}"
    what, where, _ = member.error
    return f"failed: {what} ({where})" if where else f"failed: {what}"


def _rank(member: Member, direction: Direction) -> tuple[bool, float]:
    """Return what orders members from best to worst: failed or not, then the objective."""
    value = member.objective
    if value is None or not isfinite(value):
        return member.status == "failed", inf
    return member.status == "failed", -value if direction == "maximize" else value


def _write(path: Path, content: Sweep | Member) -> None:
    with replaced_file(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
