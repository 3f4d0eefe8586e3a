"""Resume a run: load its checkpoint, and refuse options that differ from its own."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.config.option_types import leaves
from rlhf.config.schema import Config
from rlhf.errors import UsageError
from rlhf.storage.checkpoint import Checkpoint, load_checkpoint
from rlhf.storage.run_directory import is_step_directory
from rlhf.tracking.console import say, table

# Options that do not change the results of a run: they may differ when it is resumed.
MAY_DIFFER = frozenset(
    {
        "resume",
        "resume_allow",
        "name",
        "output_dir",
        "output",
        "ppo.profile",
        "model.base",
        "model.vision_cache_gib",
        "model.vision_cache_dir",
        "sft.save_every",
        "reward.save_every",
        "ppo.save_every",
        "ppo.log_samples_every",
        "ppo.on_warning",
        "ppo.max_skipped_steps",
    }
)


def resume_checkpoint(job: Job, directory: Path, *, required: bool = True) -> Checkpoint | None:
    """Load the checkpoint that a run resumes from; return None for a new run.

    Args:
        job: the call of the command.
        directory: the run directory, or the directory of one fold.
        required: raise if there is no checkpoint; else a fold without one starts anew.

    Raises:
        NoCheckpointError: there is no checkpoint.
        DataError: every checkpoint is damaged.
        UsageError: options differ from those the run began with.
    """
    if not job.config.resume:
        return None
    resume, root = Path(job.config.resume), directory / "checkpoints"
    from_step = is_step_directory(resume) and directory == job.run_dir
    if not (required or from_step or any(root.glob("step-*"))):
        job.write_options()
        return None
    checkpoint = load_checkpoint(resume if from_step else root)
    check_options(checkpoint.state["config"], job.config)
    job.write_options()
    if from_step:
        _rename_later_checkpoints(root, checkpoint.step)
    say(f"resuming after step {checkpoint.step}")
    return checkpoint


def delete_checkpoints(directory: Path) -> None:
    """Delete the checkpoints of a finished run and of its folds."""
    for checkpoints in (directory / "checkpoints", *directory.glob("fold-*/checkpoints")):
        shutil.rmtree(checkpoints, ignore_errors=True)


def check_options(stored: dict[str, Any], config: Config) -> None:
    """Refuse options that differ from those a run began with, unless `resume_allow` names them.

    Args:
        stored: the options that the run began with, nested by section.
        config: the options now.

    Raises:
        UsageError: options differ; a table of them is printed.
    """
    now = dict(leaves(json.loads(json.dumps(asdict(config)))))
    then = dict(leaves(stored))
    allowed = MAY_DIFFER | set(config.resume_allow)
    if config.ppo.lr_schedule == "constant":  # others depend on the total number of steps
        allowed |= {"ppo.iterations"}
    names = [name for name in now if now[name] != then.get(name) and name not in allowed]
    if not names:
        return
    rows = [(name, str(then.get(name)), str(now[name])) for name in names]
    table("options that differ", ("option", "then", "now"), rows)
    raise UsageError(
        "the run began with other options",
        ", ".join(f"{name}: {old} then, {new} now" for name, old, new in rows),
        f"leave them as they were, or add 'resume_allow=[{','.join(names)}]'",
    )


def _rename_later_checkpoints(root: Path, step: int) -> None:
    """Rename the checkpoints of steps after `step`, so that none of them is resumed from."""
    for directory in sorted(root.glob("step-*")):
        number = directory.name.removeprefix("step-")
        if int(number) > step:
            directory.replace(root / f"left-{number}")
            say(f"{directory.name} is renamed to left-{number}: the run resumes from step {step}")
