"""Resume a run: load its checkpoint, and refuse options that differ from its own."""

from pathlib import Path

from rlhf.commands.job import Job
from rlhf.parallel.environment import num_restarts
from rlhf.storage.checkpoint import Checkpoint
from rlhf.storage.run_directory import is_step_directory
from rlhf.tracking.console import say
from rlhf.training.run_files import load_run_checkpoint


def resume_checkpoint(job: Job, directory: Path, *, required: bool = True) -> Checkpoint | None:
    """Load the checkpoint that a run resumes from; return None for a new run.

    Args:
        job: the call of the command.
        directory: the run directory, or that of one of its trainings.
        required: raise if there is no checkpoint, unless a crash came before the first one; else
            a training without one starts anew.

    Raises:
        NoCheckpointError: there is no checkpoint.
        DataError: every checkpoint is damaged.
        UsageError: options differ from those the run began with.
    """
    if not job.config.resume:
        return None
    resume, root = Path(job.config.resume), directory / "checkpoints"
    from_step = is_step_directory(resume) and directory == job.run_dir
    required = required and not num_restarts()  # a crash may have come before the first checkpoint
    if not (required or from_step or any(root.glob("step-*"))):
        job.write_options()
        return None
    checkpoint = load_run_checkpoint(resume if from_step else root, job.config)
    job.write_options()
    if from_step and (job.world is None or job.world.is_first):
        _rename_later_checkpoints(root, checkpoint.step)
    say(f"resuming after step {checkpoint.step}")
    return checkpoint


def _rename_later_checkpoints(root: Path, step: int) -> None:
    """Rename the checkpoints of steps after `step`, so that none of them is resumed from."""
    for directory in sorted(root.glob("step-*")):
        number = directory.name.removeprefix("step-")
        if int(number) > step:
            directory.replace(root / f"left-{number}")
            say(f"{directory.name} is renamed to left-{number}: the run resumes from step {step}")
