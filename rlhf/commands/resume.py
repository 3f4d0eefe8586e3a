"""What a continued run begins from: its checkpoint, if the options are those it began with."""

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

# Options that change no number of a run, so that they may differ when it is continued.
FREE = frozenset(
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
    """The checkpoint in the directory of a run that is continued; None of a run that begins.

    Args:
        directory: the run's, or that of a part of it.
        must: refuse a directory without any checkpoint; else that part begins.

    Raises:
        NoCheckpointError, DataError: there is none; none verifies.
        UsageError: the options are not those the run began with.
    """
    if not job.config.resume:
        return None
    named, root = Path(job.config.resume), directory / "checkpoints"
    back = is_step_directory(named) and directory == job.run_dir
    if not (must or back or any(root.glob("step-*"))):
        job.write_options()
        return None
    checkpoint = load_checkpoint(named if back else root)
    check_options(checkpoint.state["config"], job.config)
    job.write_options()
    if back:
        _leave_later(root, checkpoint.step)
    say(f"continuing after step {checkpoint.step}")
    return checkpoint


def drop_checkpoints(directory: Path) -> None:
    """Remove those of a training that is over and whose model is written; folds' too."""
    for checkpoints in (directory / "checkpoints", *directory.glob("fold-*/checkpoints")):
        shutil.rmtree(checkpoints, ignore_errors=True)


def check_options(begun: dict[str, Any], config: Config) -> None:
    """Refuse options other than those a run began with, unless `resume_allow` names them.

    Raises:
        UsageError: with a table of what differs.
    """
    now = dict(leaves(json.loads(json.dumps(asdict(config)))))
    then = dict(leaves(begun))
    allowed = FREE | set(config.resume_allow)
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


def _leave_later(root: Path, step: int) -> None:
    """Put aside the checkpoints after the one the run goes back to."""
    for directory in sorted(root.glob("step-*")):
        number = directory.name.removeprefix("step-")
        if int(number) > step:
            directory.replace(root / f"left-{number}")
            say(f"{directory.name} is now left-{number}: the run goes on from step {step}")
