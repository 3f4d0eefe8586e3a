"""`rlhf compare`: the metrics of runs and sweeps in tables, and their curves on one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.errors import UsageError
from rlhf.evaluation.comparison_page import write_run_comparison
from rlhf.evaluation.run_comparison import (
    Run,
    run_values,
    table_rows,
)
from rlhf.evaluation.run_names import run_names
from rlhf.evaluation.sweep_comparison import (
    read_runs,
    seed_intervals,
    setting_rows,
    unfinished_rows,
)
from rlhf.tracking.console import say, table

Tables = Mapping[str, tuple[Sequence[str], Sequence[Sequence[object]]]]


def compare(job: Job) -> dict[str, Any]:
    """Compare the logged metrics of runs of rlhf or trl, and of sweeps; write one HTML page.

    Returns:
        The last and best value of each metric of each run, the means over the seeds of each setting
        of a sweep, what did not end well, and the path of the page.
    """
    if not job.files:
        usage = "rlhf compare RUN RUN… output=compare.html"
        raise UsageError("no run is named", "rlhf compare", usage)
    runs = read_runs(job.files)
    _print(runs)
    output = Path(job.config.output or "compare.html")
    _write(output, runs, job.files)
    return {
        "runs": {run.name: run_values(run) for run in runs},
        "settings": {
            setting: {name: interval._asdict() for name, interval in values.items()}
            for setting, values in seed_intervals(runs).items()
        },
        "unfinished": dict(unfinished_rows(runs)),
        "page": str(output),
    }


def _print(runs: Sequence[Run]) -> None:
    for title, (columns, rows) in _tables(runs).items():
        table(title, columns, rows)
    if unfinished := unfinished_rows(runs):
        table("failed or not ended", ("run", "why"), unfinished)


def _tables(runs: Sequence[Run]) -> Tables:
    """Return the table of runs by its title, after that of settings if there are any."""
    settings = setting_rows(runs)
    means = {"means over seeds ± 95 % interval (runs)": settings} if settings[1] else {}
    return {**means, "last and best values": table_rows(runs)}


def _write(output: Path, runs: Sequence[Run], paths: Sequence[Path]) -> None:
    names = run_names(paths)
    notes = [f"{name}: {path}" for name, path in zip(names, paths, strict=True)]
    try:
        write_run_comparison(output, runs, _tables(runs), notes, unfinished_rows(runs))
    except OSError as error:
        fix = "set output=FILE.html to a file that can be written"
        raise UsageError(
            f"the page cannot be written: {error.strerror}", str(output), fix
        ) from None
    say(f"curves: {output.resolve()}")
