"""Compare runs by their last and best metrics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path

from rlhf.errors import DataError
from rlhf.storage.json_files import read_json
from rlhf.storage.run_directory import SWEEP_FILE, run_directories
from rlhf.tracking.reader import Curves, read_events, read_metrics

_TIMES = ("time/rollout", "time/update")  # their sum is the time of a PPO run
Statistic = Callable[[Sequence[float]], float]


def _last(values: Sequence[float]) -> float:
    return values[-1]


_COLUMNS: dict[str, tuple[str, Statistic]] = {  # heading: metric, statistic of its values
    "score": ("objective/scores", _last),
    "best": ("objective/scores", max),
    "reward": ("objective/rlhf_reward", _last),
    "best reward": ("objective/rlhf_reward", max),
    "KL": ("objective/kl", _last),
    "tokens": ("tokens/responses_len_mean", _last),
    "loss": ("sft/loss", _last),
    "least loss": ("sft/loss", min),
    "accuracy": ("reward/validation_accuracy", _last),
    "best accuracy": ("reward/validation_accuracy", max),
}


@dataclass(frozen=True)
class Run:
    """The logged metrics of a run, and what is known of it if it belongs to a sweep.

    Attributes:
        name: unique among the runs compared.
        curves: metric to (step, value).
        seconds: the time it took; NaN where it is not known.
        win_rate: from its summary, 0 to 1; NaN where there is none.
        sweep: the sweep that it belongs to, unique among the directories compared; "" for none.
        setting: shared by runs of a sweep that differ only in their seed; "" outside of a sweep.
        options: swept option to its value.
        results: what the sweep recorded at its end, by name.
        status: running, done, failed or interrupted; "" outside of a sweep.
        reason: why it failed; "" if it did not.
    """

    name: str
    curves: Curves
    seconds: float
    win_rate: float = nan
    sweep: str = ""
    setting: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, float] = field(default_factory=dict)
    status: str = ""
    reason: str = ""

    @property
    def series(self) -> str:
        """What the legend calls its lines: its setting, or its name outside of a sweep."""
        return self.setting or self.name


@dataclass(frozen=True)
class _Summary:
    """What is read of a run's summary.json."""

    win_rate: float | None = None


def read_run(directory: Path, name: str) -> Run:
    """Read the metrics of a run of this project, or of trl by its TensorBoard events.

    Args:
        directory: a run directory, or one that holds runs, of which the newest is read.
        name: what the run is called in the comparison.

    Raises:
        DataError: the directory holds no metrics, or they cannot be read.
    """
    run_dirs = [path for path in run_directories(directory) if (path / "metrics.jsonl").is_file()]
    try:
        if not run_dirs:
            _refuse_sweeps(directory)
            return Run(name, *read_events(directory))
        curves = read_metrics(run_dirs[0])
        summary_file = run_dirs[0] / "summary.json"
        summary = read_json(summary_file, _Summary) if summary_file.is_file() else _Summary()
        seconds = [value for metric in _TIMES for _, value in curves.get(metric, [])]
        win_rate = nan if summary.win_rate is None else summary.win_rate
        return Run(name, curves, sum(seconds) if seconds else nan, win_rate)
    except (ValueError, KeyError, AttributeError) as error:
        fix = "name a run directory whose metrics.jsonl and summary.json are as they were written"
        raise DataError(f"the metrics cannot be read: {error}", str(directory), fix) from None


def _refuse_sweeps(directory: Path) -> None:
    """Refuse a directory of sweeps: no run in it stands for the others."""
    if sweeps := sorted(path.parent for path in directory.glob(f"*/{SWEEP_FILE}")):
        what, fix = "there are only sweeps here", f"name one of them, e.g. {sweeps[-1]}"
        raise DataError(what, str(directory), fix)


def last_and_best(run: Run) -> dict[str, float]:
    """Return the last and best values of a run by heading, its win rate and its seconds.

    Values that were not logged or are not finite are left out.
    """
    metrics = {}
    for heading, (metric, statistic) in _COLUMNS.items():
        if values := [value for _, value in run.curves.get(metric, []) if isfinite(value)]:
            metrics[heading] = statistic(values)
    run_values = {"win rate": run.win_rate, "seconds": run.seconds}
    return metrics | {name: value for name, value in run_values.items() if isfinite(value)}


def run_values(run: Run) -> dict[str, float]:
    """Return what a run is compared by: the results of its sweep, then its last and best values."""
    return {**run.results, **last_and_best(run)}


def value_columns(runs: Sequence[Run]) -> list[str]:
    """Return the names of `run_values` that one of the runs has, in the order of a table."""
    results = [name for run in runs for name in run.results]
    used = {name for run in runs for name in run_values(run)}
    return [x for x in dict.fromkeys([*results, *_COLUMNS, "win rate", "seconds"]) if x in used]


def table_rows(runs: Sequence[Run]) -> tuple[list[str], list[tuple[object, ...]]]:
    """Lay out runs for `console.table`.

    Returns:
        The headings (run, swept options, values, status; without those that no run has, and without
        the run if all are of one sweep, whose options tell them apart), and a row for each run.
    """
    names = [] if of_one_sweep(runs) else ["run"]
    options = list(dict.fromkeys(name for run in runs for name in run.options))
    values, status = value_columns(runs), ["status"] if any(run.status for run in runs) else []
    rows: list[tuple[object, ...]] = [
        (
            *([run.name] if names else []),
            *(run.options.get(name, "–") for name in options),
            *(run_values(run).get(name, "–") for name in values),
            *([run.status or "–"] if status else []),
        )
        for run in runs
    ]
    return [*names, *options, *values, *status], rows


def of_one_sweep(runs: Sequence[Run]) -> bool:
    """Tell whether all runs belong to the same sweep."""
    return len({run.sweep for run in runs}) == 1 and bool(runs[0].sweep)
