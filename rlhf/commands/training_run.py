"""The run of a command that trains: it logs metrics, and is resumed by its command line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from rlhf.commands.command_line import resume_command
from rlhf.commands.job import Job
from rlhf.commands.model_setup import command_line_options
from rlhf.config.option_types import leaves, path_options
from rlhf.storage.checkpoint import Checkpoint, restoring
from rlhf.storage.sweep import read_member
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.trainer import Trainer


@contextmanager
def training_run(job: Job, trainer: Trainer, checkpoint: Checkpoint | None) -> Iterator[None]:
    """Let a trainer log inside the block what a command logs, and continue from a checkpoint.

    Args:
        job: the call of the command.
        trainer: it runs inside the block.
        checkpoint: where it continues; None: from the start.
    """
    trainer.checkpoints.resume_command = partial(resume_command, job, trainer.command)
    directory = trainer.world.owned(trainer.run_dir)
    final, first = trainer.final_metrics, trainer.first_step
    with metrics_writer(job, directory, checkpoint, final, first_step=first) as trainer.writer:
        if checkpoint:
            with restoring(checkpoint):
                trainer.restore(checkpoint)
        yield


def metrics_writer(
    job: Job,
    directory: Path | None,
    checkpoint: Checkpoint | None,
    final_metrics: Sequence[str],
    *,
    first_step: int = 0,
) -> MetricsWriter:
    """Open the writer of a directory's metrics and log the resolved options as text.

    Args:
        job: the call of the command.
        directory: where metrics.jsonl and the TensorBoard events are written; None: nowhere.
        checkpoint: the run is resumed from it, and metrics logged after it are dropped; None: from
            the start.
        final_metrics: names of the metrics whose last values stand in TensorBoard's table of runs.
        first_step: the number under which the first step is logged.
    """
    done = checkpoint.step if checkpoint else 0
    resume_step = first_step + done if job.config.resume else None
    writer = MetricsWriter(directory, resume_step, final_metrics)
    options = msgspec.json.format(msgspec.json.encode(job.config), indent=2).decode()
    writer.text("config", f"```json\n{options}\n```", resume_step or 0)
    if checkpoint is None:
        writer.hparams(hyperparameters(job))
    return writer


def hyperparameters(job: Job) -> dict[str, Any]:
    """Return the options in TensorBoard's table of runs: seed, command line, and what a sweep sets.

    Paths and the name of the run are left out unless they are swept. They differ from command to
    command, and TensorBoard shows only the first five options that differ without being asked.
    """
    member = read_member(job.run_dir)
    swept = member.overrides if member else {}
    others = path_options() | {"name", "resume_allow"}
    named = {k: x for k, x in command_line_options(job).items() if k not in others}
    values = dict(leaves(asdict(job.config)))
    return named | {name: values.get(name, text) for name, text in swept.items()}
