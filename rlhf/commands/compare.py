"""`rlhf compare`: the metrics of several runs in one table, and their curves on one page."""

from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.errors import UsageError
from rlhf.evaluation.run_comparison import (
    distinct_names,
    last_and_best,
    read_run,
    table_rows,
    write_run_comparison,
)
from rlhf.tracking.console import say, table


def compare(job: Job) -> dict[str, Any]:
    """Compare the logged metrics of runs of rlhf or trl; write one HTML page.

    Returns:
        The last and best value of each metric of each run, and the path of the page.
    """
    if not job.files:
        usage = "rlhf compare RUN RUN… output=compare.html"
        raise UsageError("no run is named", "rlhf compare", usage)
    names = distinct_names(job.files)
    runs = [read_run(path, name) for path, name in zip(job.files, names, strict=True)]
    metrics = {run.name: last_and_best(run) for run in runs}
    columns, rows = table_rows(metrics)
    table("last and best values", columns, rows)
    output = Path(job.config.output or "compare.html")
    notes = [f"{name}: {path}" for name, path in zip(names, job.files, strict=True)]
    try:
        write_run_comparison(output, runs, metrics, notes)
    except OSError as error:
        fix = "set output=FILE.html to a file that can be written"
        raise UsageError(
            f"the page cannot be written: {error.strerror}", str(output), fix
        ) from None
    say(f"curves: {output.resolve()}")
    return {"runs": metrics, "page": str(output)}
