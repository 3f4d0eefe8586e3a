"""A run's directory: its name, its lock and what it holds."""

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

RUN_NAME = r"\d{8}-\d{6}-[0-9a-f]{4}"


class RunDirectory:
    """`<output_dir>/<experiment>/<time>-<id>/`, owned by one process at a time.

    Holds config.yaml, TensorBoard events, metrics.jsonl, summary.json and, by command, model/ or
    adapter/, reward/, checkpoints/, candidates.jsonl, preferences.jsonl, report.html.

    Args:
        path: the directory; made when missing.

    Raises:
        DirectoryInUseError: another process writes there.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = FileLock(path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise DirectoryInUseError(
                "another run is writing to this folder", str(path), "wait for it or start a new run"
            ) from None

    @classmethod
    def create(cls, output_dir: Path, experiment: str) -> "RunDirectory":
        """A new directory with a name of its own, also when many start within one second."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return cls(output_dir / experiment / f"{stamp}-{secrets.token_hex(2)}")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the metrics of the run to summary.json."""
        (self.path / "summary.json").write_text(json_text(summary, indent=2) + "\n")

    def close(self) -> None:
        """Let go of the directory; one in which nothing was done is removed."""
        self._lock.release()
        if {item.name for item in self.path.iterdir()} <= {"config.yaml", ".lock"}:
            shutil.rmtree(self.path)


def run_directories(path: Path) -> list[Path]:
    """The directory itself, and if it holds runs, these, the newest first."""
    runs = [item for item in path.glob("*-*-*") if re.fullmatch(RUN_NAME, item.name)]
    return [path, *sorted(runs, reverse=True)]


def is_step_directory(path: Path) -> bool:
    """Whether this is one checkpoint, RUN/checkpoints/step-000123, rather than a run."""
    return bool(re.fullmatch(r"step-\d+", path.name)) and path.parent.name == "checkpoints"


def run_directory_of(resume: str) -> Path:
    """The directory of the run that an option `resume` names, by itself or by a checkpoint."""
    path = Path(resume)
    return path.parents[1] if is_step_directory(path) else path


def unfinished_run(directory: Path, command: str) -> Path | None:
    """The newest run of a command in a directory, if it has a checkpoint and did not end."""
    for run in run_directories(directory)[1:]:
        if _command(run / "summary.json") == command:
            return None
        manifests = run.glob("**/checkpoints/step-*/manifest.json")
        if any(_command(path) == command for path in manifests):
            return run
    return None


def _command(file: Path) -> str:
    """Which command a summary or a checkpoint's manifest is of."""
    try:
        return str(json.loads(file.read_bytes()).get("command", ""))
    except (OSError, ValueError):
        return ""


def json_text(metrics: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Metrics as JSON, which has no NaN and no infinity: null where there is no number."""
    return json.dumps(_finite(metrics), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
