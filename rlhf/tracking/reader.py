"""Read metrics: from `metrics.jsonl`, and from TensorBoard events, also those of trl."""

from math import nan
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlhf.errors import DataError
from rlhf.storage.bounded import check_size, read_bytes
from rlhf.tracking.console import say

MAX_METRICS_BYTES = 300_000_000  # 100,000 iterations

MetricsLine = dict[str, float | None]  # of one step: metrics by name, and "step"
Curves = dict[str, list[tuple[int, float]]]  # metric: (step, value) in written order


def read_metrics(directory: Path) -> Curves:
    """Read the metrics that a run of this project wrote.

    Args:
        directory: the directory of the run.

    Returns:
        Metric to (step, value) in written order; NaN where a value was not finite.

    Raises:
        DataError: there is no `metrics.jsonl`, no sound line in it, or it is too large.
    """
    path = directory / "metrics.jsonl"
    if not path.exists():
        raise DataError("there are no metrics here", str(path), "name the directory of a run")
    curves: Curves = {}
    lines = read_lines(path)
    if not lines and path.stat().st_size:
        raise DataError("no line of it can be read", str(path), "name a run with metrics")
    for line in lines:
        step = int(line.pop("step") or 0)
        for name, value in line.items():
            curves.setdefault(name, []).append((step, nan if value is None else value))
    return curves


def read_lines(path: Path) -> list[MetricsLine]:
    """Read the lines of a `metrics.jsonl`; damaged ones are left out, with a warning.

    Args:
        path: the file; there are no lines where there is none.
    """
    lines = [*map(_decode, complete_lines(path))]
    sound = [line for line in lines if line is not None]
    if damaged := len(lines) - len(sound):
        say(f"{damaged} damaged lines of {path} are left out", "yellow")
    return sound


def _decode(line: str) -> MetricsLine | None:
    import msgspec  # a bare GPU machine runs the benchmarks of models without it

    try:
        values = msgspec.json.decode(line, type=dict[str, int | float | None])
    except (msgspec.MsgspecError, UnicodeError):
        return None
    return values if isinstance(values.get("step"), int) else None


def read_events(directory: Path) -> tuple[Curves, float]:
    """Read the scalars of the newest TensorBoard events in or below a directory.

    Args:
        directory: of a run, or one above it.

    Returns:
        Metric to (step, value), without the `train/` that trl's trainers put before the names; and
        the seconds between the first and the last event.

    Raises:
        DataError: there are no scalars, or a file is over `MAX_METRICS_BYTES`.
    """
    files = sorted(directory.rglob("events.out.tfevents.*"), key=lambda path: path.name)
    curves: Curves = {}
    times: list[float] = []
    if files:
        for path in files[-1].parent.glob("events.out.tfevents.*"):
            check_size(path, MAX_METRICS_BYTES)  # one record may have the length of the file
        board = EventAccumulator(str(files[-1].parent), size_guidance={"scalars": 0}).Reload()
        for tag in board.Tags()["scalars"]:
            events = board.Scalars(tag)
            curves[tag.removeprefix("train/")] = [(x.step, x.value) for x in events]
            times += [x.wall_time for x in events]
    if not curves:
        fix = "name the directory of a run, or one with TensorBoard's event files"
        raise DataError("there are no metrics here", str(directory), fix)
    return curves, max(times) - min(times)


def complete_lines(path: Path) -> list[str]:
    """Read the complete lines of a file, without a last one that a crash cut short.

    Returns:
        The lines; none where there is no file.
    """
    if not path.exists():
        return []
    return read_bytes(path, MAX_METRICS_BYTES).decode(errors="replace").split("\n")[:-1]
