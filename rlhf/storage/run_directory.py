"""Create, lock and find the directories that runs write to."""

import json
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rlhf.errors import DirectoryInUseError
from rlhf.storage.atomic import make_directory

RUN_NAME = r"\d{8}-\d{6}-[0-9a-f]{4}"
REWARD_CARD = "reward.json"  # beside the head of a reward model


class RunDirectory:
    """A run's directory, `<output_dir>/<experiment>/<time>-<id>/`, locked for this process.

    It holds config.yaml, TensorBoard events, metrics.jsonl, summary.json and, by command, model/ or
    adapter/, reward/, checkpoints/, candidates.jsonl, preferences.jsonl, report.html.

    Args:
        path: the directory; made when missing.

    Raises:
        DirectoryInUseError: another process writes there.
        ResourceError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = make_directory(path)
        self._lock = FileLock(path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise DirectoryInUseError(
                "another run is writing to this directory",
                str(path),
                "wait for it or start a new run",
            ) from None

    @classmethod
    def create(cls, output_dir: Path, experiment: str) -> "RunDirectory":
        """Create a run's directory; its name is unique even if many start within one second."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return cls(output_dir / experiment / f"{stamp}-{secrets.token_hex(2)}")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the metrics of the run to summary.json."""
        (self.path / "summary.json").write_text(json_text(summary, indent=2) + "\n")

    def close(self) -> None:
        """Release the lock; delete the directory if it holds nothing but its configuration."""
        self._lock.release()
        if {item.name for item in self.path.iterdir()} <= {"config.yaml", ".lock"}:
            shutil.rmtree(self.path)


def run_directories(path: Path) -> list[Path]:
    """List the directory itself, then the runs in it, newest first."""
    runs = [item for item in path.glob("*-*-*") if re.fullmatch(RUN_NAME, item.name)]
    return [path, *sorted(runs, reverse=True)]


def is_step_directory(path: Path) -> bool:
    """Tell whether a path is one checkpoint, RUN/checkpoints/step-000123, rather than a run."""
    return bool(re.fullmatch(r"step-\d+", path.name)) and path.parent.name == "checkpoints"


def run_directory_of(resume: str) -> Path:
    """Return the run's directory that `resume` names, either itself or one of its checkpoints."""
    path = Path(resume)
    return path.parents[1] if is_step_directory(path) else path


def unfinished_run(directory: Path, command: str) -> Path | None:
    """Find the newest run of a command, if it has a checkpoint and did not finish.

    Args:
        directory: holds the runs of an experiment.
        command: e.g. ppo.

    Returns:
        The run's directory; None if the newest run of the command finished, or there is none.
    """
    for run in run_directories(directory)[1:]:
        if _command(run / "summary.json") == command:
            return None
        manifests = run.glob("**/checkpoints/step-*/manifest.json")
        if any(_command(path) == command for path in manifests):
            return run
    return None


def _command(file: Path) -> str:
    """Read the command that wrote a summary or a checkpoint's manifest; "" when unreadable."""
    try:
        return str(json.loads(file.read_bytes()).get("command", ""))
    except (OSError, ValueError):
        return ""


def json_text(metrics: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Encode metrics as JSON, with null for NaN and infinity, which JSON does not have."""
    return json.dumps(_without_nan(metrics), indent=indent, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
