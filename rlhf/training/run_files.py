"""The files of a run that is set up in Python: its metrics, and the checkpoint it resumes from."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rlhf.config.option_types import leaves
from rlhf.config.schema import Config
from rlhf.errors import UsageError
from rlhf.storage.atomic import make_directory
from rlhf.storage.checkpoint import Checkpoint, load_checkpoint, restoring
from rlhf.tracking.tracker import Tracker
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.resume_options import check_options


def open_writer(
    run_dir: Path | None,
    trackers: Sequence[Tracker] | None,
    resume_step: int | None,
    final_metrics: Sequence[str],
    config: Config,
) -> MetricsWriter:
    """Open the writer of a run's metrics, and record the options of a new run.

    Args:
        run_dir: the run directory; None: nothing is written.
        trackers: receive the metrics; None: TensorBoard, if there is a run directory.
        resume_step: first step of a resumed run; None: a new run.
        final_metrics: names of the metrics that runs are compared by.
        config: its seed and the options that differ from the defaults are recorded.

    Raises:
        UsageError: a new run in a directory that holds the checkpoints of another one.
    """
    if run_dir and resume_step is None and any((run_dir / "checkpoints").glob("step-*")):
        fix = "name another run_dir, or call `resume` before the run"
        raise UsageError("the directory holds the checkpoints of a run", str(run_dir), fix)
    writer = MetricsWriter(run_dir, resume_step, final_metrics, trackers)
    if resume_step is None:
        default = dict(leaves(asdict(Config())))
        options = {k: x for k, x in leaves(asdict(config)) if x != default[k] or k == "seed"}
        writer.hparams(options)
    return writer


def load_run_checkpoint(path: Path, config: Config) -> Checkpoint:
    """Load a checkpoint of a run that goes on with the options that it began with.

    Args:
        path: one checkpoint, or a directory of them, of which the newest that is whole is loaded.
        config: the options now.

    Raises:
        UsageError: the options differ from those the run began with.
        NoCheckpointError: there is no checkpoint.
        DataError: it is damaged, or every one is.
    """
    checkpoint = load_checkpoint(path)
    with restoring(checkpoint):
        check_options(checkpoint.state["config"], config)
    return checkpoint


def required_directory(directory: str | Path | None, run_dir: Path | None) -> Path:
    """Return the directory to save to, made if missing: `directory`, else the run directory.

    Args:
        directory: where the user wants to save; None: to the run directory.
        run_dir: of the run; None: it has none.

    Raises:
        UsageError: there is neither.
    """
    place = run_dir if directory is None else Path(directory)
    if place is None:
        raise UsageError("there is no directory to save to", "run_dir=None", "name a directory")
    return make_directory(place)
