"""Continue a run: find its checkpoint, and refuse options other than those it began with."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.config.schema import Config, leaves
from rlhf.errors import UsageError
from rlhf.storage.checkpoint import Checkpoint, load_checkpoint
from rlhf.storage.run_directory import is_step_directory
from rlhf.tracking.console import say, table

# Options that change no number of a run: they may differ when it is continued.
MAY_DIFFER = frozenset(
    {
        "resume",
        "resume_allow",
        "name",
        "output_dir",
        "output",
        "ppo.profile",
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


def checkpoint_of(job: Job, directory: Path, *, must: bool = True) -> Checkpoint | None:
    """The checkpoint from which a run continues; None where it begins.

    Args:
        job: the call of the command.
        directory: the run directory, or that of a part of the run, such as a fold.
        must: refuse a directory without a checkpoint; else that part of the run begins.

    Raises:
        NoCheckpointError: there is no checkpoint.
        DataError: every checkpoint is damaged.
        UsageError: the options are not those that the run began with.
    """
    if not job.config.resume:
        return None
    resume, root = Path(job.config.resume), directory / "checkpoints"
    goes_back = is_step_directory(resume) and directory == job.run_dir
    if not (must or goes_back or any(root.glob("step-*"))):
        job.write_options()
        return None
    checkpoint = load_checkpoint(resume if goes_back else root)
    check_options(checkpoint.state["config"], job.config)
    job.write_options()
    if goes_back:
        _set_later_aside(root, checkpoint.step)
    say(f"continuing after step {checkpoint.step}")
    return checkpoint


def drop_checkpoints(directory: Path) -> None:
    """Remove the checkpoints of a finished run, those of its folds too."""
    for checkpoints in (directory / "checkpoints", *directory.glob("fold-*/checkpoints")):
        shutil.rmtree(checkpoints, ignore_errors=True)


def check_options(begun: dict[str, Any], config: Config) -> None:
    """Refuse options other than those a run began with, unless `resume_allow` names them.

    Args:
        begun: the options that the run began with, nested by section.
        config: the options now.

    Raises:
        UsageError: options differ; a table of them is printed.
    """
    now = dict(leaves(json.loads(json.dumps(asdict(config)))))
    then = dict(leaves(begun))
    allowed = MAY_DIFFER | set(config.resume_allow)
    if config.ppo.lr_schedule == "constant":  # else the rate of each step depends on their number
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


def _set_later_aside(root: Path, step: int) -> None:
    """Rename the checkpoints later than `step`, from which the run continues."""
    for directory in sorted(root.glob("step-*")):
        number = directory.name.removeprefix("step-")
        if int(number) > step:
            directory.replace(root / f"left-{number}")
            say(f"{directory.name} is now left-{number}: the run goes on from step {step}")
