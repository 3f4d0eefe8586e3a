"""Curves read back: from `metrics.jsonl`, and from TensorBoard's events, trl's too."""

import json
from math import nan
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlhf.errors import DataError

Curves = dict[str, list[tuple[int, float]]]  # metric: (step, value) in written order


def read_metrics(directory: Path) -> Curves:
    """Name to (step, value) in written order, NaN where not finite. Raises: DataError, no file."""
    path = directory / "metrics.jsonl"
    if not path.exists():
        raise DataError("There are no metrics here.", str(path), "Name the folder of a run.")
    curves: Curves = {}
    for record in map(json.loads, whole_lines(path)):
        step = record.pop("step")
        for name, value in record.items():
            curves.setdefault(name, []).append((step, nan if value is None else value))
    return curves


def read_events(directory: Path) -> tuple[Curves, float]:
    """Scalars of the newest TensorBoard events in or below a directory, and the seconds they span.

    trl's trainers log behind `train/`, which is left out. Raises: DataError, no scalars.
    """
    found = sorted(directory.rglob("events.out.tfevents.*"), key=lambda path: path.name)
    curves: Curves = {}
    times: list[float] = []
    if found:
        board = EventAccumulator(str(found[-1].parent), size_guidance={"scalars": 0}).Reload()
        for tag in board.Tags()["scalars"]:
            events = board.Scalars(tag)
            curves[tag.removeprefix("train/")] = [(x.step, x.value) for x in events]
            times += [x.wall_time for x in events]
    if not curves:
        fix = "name the folder of a run, or one with TensorBoard's event files"
        raise DataError("there are no metrics here", str(directory), fix)
    return curves, max(times) - min(times)


def whole_lines(path: Path) -> list[str]:
    """Whole lines: what follows the last newline was torn by a kill."""
    return path.read_text().split("\n")[:-1] if path.exists() else []
