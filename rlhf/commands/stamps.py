"""`rlhf stamps`: turn the images of Debian's tuxpaint-stamps-default into prompts and captions."""

from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.demo.stamps.dataset import write_stamps
from rlhf.demo.stamps.package import INSTALLED
from rlhf.errors import UsageError
from rlhf.storage.atomic import make_directory
from rlhf.tracking.console import say, table


def stamps(job: Job) -> dict[str, Any]:
    """Write the stamps' images with prompts, captions and their licence to a new directory.

    Returns:
        Counts of what was written and skipped.
    """
    usage = "rlhf stamps [PACKAGE.deb|DIRECTORY] output=DIRECTORY"
    if len(job.files) > 1:
        raise UsageError("more than one package is named", " ".join(map(str, job.files)), usage)
    if not job.config.output:
        raise UsageError("no output directory is named", "output", usage)
    source, output = [*job.files, INSTALLED][0], Path(job.config.output)
    make_directory(output.parent)
    fraction = job.config.data.validation_fraction
    metrics = write_stamps(source, output, seed=job.config.seed, held_out=fraction)
    counts = {**metrics, **{f"skipped, {reason}": n for reason, n in metrics["skipped"].items()}}
    del counts["skipped"]
    table("stamps", ("metric", "value"), list(counts.items()))
    say(f"the images are under the GPL, version 2 or later: {output / 'SOURCE.txt'}")
    return metrics
