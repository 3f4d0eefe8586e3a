"""Create, lock and find the directories that runs write to."""

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rlhf.errors import DataError, DirectoryInUseError
from rlhf.storage.atomic import make_directory, replace_text, unwritable
from rlhf.storage.json_files import JsonObject, read_json_or
from rlhf.storage.yaml_files import read_yaml

RUN_NAME = re.compile(r"(\d{4,})-\d{8}-\d{6}")  # counter, date and time
OLD_RUN_NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")  # without a counter, by the local clock
REWARD_CARD = "reward.json"  # beside the head of a reward model
TRAININGS = "fold-*", "part-*", "fold-*/part-*"  # directories of trainings inside that of a run
_LONGEST_TITLE = 100  # characters that are read of the first line of config.yaml
CONFIG_TITLE = "# rlhf "  # begins config.yaml, before the name of the command
SWEEP_FILE = "sweep.json"  # in a sweep's directory, whose runs are its members


class RunDirectory:
    """A run's directory, `<output_dir>/<name>/<counter>-<UTC time>/`, locked for this process.

    It holds config.yaml, TensorBoard events, metrics.jsonl, summary.json and, by command, model/ or
    adapter/, reward/, checkpoints/, candidates.jsonl, preferences.jsonl, report.html.

    Args:
        path: the directory; made when missing.

    Raises:
        DirectoryInUseError: another process writes there.
        ResourceError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, lock_directory(path)

    @classmethod
    def create(cls, output_dir: Path, name: str) -> "RunDirectory":
        """Make and lock a new run's directory; see `new_run_directory`."""
        return cls(new_run_directory(output_dir, name))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the metrics of the run to summary.json."""
        replace_text(self.path / "summary.json", json_text(summary, indent=2) + "\n")

    def delete_checkpoints(self) -> None:
        """Delete the checkpoints of the run, of its folds and of their parts."""
        trainings = self.path, *(x for part in TRAININGS for x in self.path.glob(part))
        for training in trainings:
            shutil.rmtree(training / "checkpoints", ignore_errors=True)

    def close(self) -> None:
        """Release the lock; delete the directory if it holds nothing but its configuration."""
        self._lock.release()
        with suppress(FileNotFoundError):  # another process of the run removes it at this moment
            if {item.name for item in self.path.iterdir()} <= {"config.yaml", ".lock"}:
                shutil.rmtree(self.path)


def lock_directory(path: Path) -> FileLock:
    """Keep other runs out of a directory, in this process too, until the lock is released.

    Args:
        path: the directory; made when missing.

    Raises:
        DirectoryInUseError: another run writes there.
        ResourceError: it cannot be made.
    """
    lock = FileLock(make_directory(path) / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        what, fix = "another run is writing to this directory", "wait for it or start a new run"
        raise DirectoryInUseError(what, str(path), fix) from None
    return lock


def remove_if_empty(directory: Path) -> None:
    """Remove a directory in which nothing was written."""
    with suppress(OSError):
        directory.rmdir()


def new_run_directory(output_dir: Path, name: str) -> Path:
    """Make the directory of a new run or sweep, `<output_dir>/<name>/0012-20261129-205228`.

    Its counter is the largest in `<output_dir>/<name>` plus one, whatever the clock says, and no
    other process gets that counter, even if many start at once.

    Raises:
        ResourceError: it cannot be made.
    """
    parent = make_directory(output_dir / name)
    try:
        while not (directory := _new_directory(parent)):
            pass
    except OSError as error:
        raise unwritable(parent, error) from error
    return directory


def _new_directory(parent: Path) -> Path | None:
    """Make the directory of the next counter; None if another process was faster."""
    counter = f"{1 + _largest_counter(parent, reserved=True):04}"
    reserved = parent / f".{counter}"
    try:
        reserved.mkdir()
    except FileExistsError:
        return None
    if _largest_counter(parent) < int(counter):
        return reserved.rename(parent / f"{counter}-{_utc_time()}")
    reserved.rmdir()  # it was taken between the count and the reservation
    return None


def _largest_counter(parent: Path, *, reserved: bool = False) -> int:
    """Return the largest counter of the runs in a directory, or also of the reserved ones."""
    names = [item.name for item in parent.iterdir()]
    counters = [int(found[1]) for name in names if (found := RUN_NAME.fullmatch(name))]
    if reserved:
        counters += [int(name[1:]) for name in names if re.fullmatch(r"\.\d{4,}", name)]
    return max(counters, default=0)


def _utc_time() -> str:
    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S")


def stored_options(directory: Path) -> dict[str, Any] | None:
    """Return the options that a run was started with, nested by section, read as data.

    Args:
        directory: of a run, or one that holds runs, of which the newest with options counts.

    Returns:
        None where no options are stored, or they cannot be read.
    """
    for path in (directory, *run_directories(directory)):
        if (file := path / "config.yaml").is_file():
            try:
                values = read_yaml(file)
            except (OSError, DataError):
                return None
            return values if isinstance(values, dict) else None
    return None


def run_directories(path: Path) -> list[Path]:
    """List the directory itself, then the runs in it, newest first; sweeps are left out.

    Runs are ordered by their counters. Those named by time alone are older than all others.
    """
    runs = [item for item in path.glob("*-*-*") if _is_run(item)]
    return [path, *sorted(runs, key=run_age, reverse=True)]


def _is_run(path: Path) -> bool:
    """Whether a directory has the name of a run and is no sweep."""
    named = RUN_NAME.fullmatch(path.name) or OLD_RUN_NAME.fullmatch(path.name)
    return bool(named) and not (path / SWEEP_FILE).exists()


def run_age(run: Path) -> tuple[int, str]:
    """Return what orders runs from old to new: the counter, 0 for a name without, and the name."""
    found = RUN_NAME.fullmatch(run.name)
    return (int(found[1]) if found else 0), run.name


def is_step_directory(path: Path) -> bool:
    """Tell whether a path is one checkpoint, RUN/checkpoints/step-000123, rather than a run."""
    return bool(re.fullmatch(r"step-\d+", path.name)) and path.parent.name == "checkpoints"


def run_directory_of(resume: str) -> Path:
    """Return the run's directory that `resume` names, either itself or one of its checkpoints."""
    path = Path(resume)
    return path.parents[1] if is_step_directory(path) else path


def unfinished_run(directory: Path, command: str, *, needs_checkpoint: bool = True) -> Path | None:
    """Find the newest run of a command that can go on, if it did not finish.

    Args:
        directory: holds the runs of an experiment.
        command: e.g. ppo.
        needs_checkpoint: whether a run of the command goes on from a checkpoint only.

    Returns:
        The run's directory; None if the newest run of the command finished, or there is none.
    """
    for run in run_directories(directory)[1:]:
        if _command(run / "summary.json") == command:
            return None
        if has_checkpoint(run, command) or (not needs_checkpoint and _begun_by(run) == command):
            return run
    return None


def _begun_by(run: Path) -> str:
    """Return the command whose options a run directory holds; "" where that is not known."""
    file = run / "config.yaml"
    if not file.is_file():
        return ""
    with file.open(errors="replace") as lines:
        first = lines.readline(_LONGEST_TITLE).rstrip("\n")
    return first.removeprefix(CONFIG_TITLE) if first.startswith(CONFIG_TITLE) else ""


def has_checkpoint(run: Path, command: str) -> bool:
    """Tell whether a run directory holds a checkpoint of a command."""
    manifests = run.glob("**/checkpoints/step-*/manifest.json")
    return any(_command(path) == command for path in manifests)


def _command(file: Path) -> str:
    """Read the command that wrote a summary or a checkpoint's manifest; "" when unreadable."""
    return str(read_json_or(file, JsonObject()).get("command", ""))


def json_text(metrics: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Encode metrics as JSON, with null for NaN and infinity, which JSON does not have."""
    return json.dumps(_without_nan(metrics), indent=indent, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
