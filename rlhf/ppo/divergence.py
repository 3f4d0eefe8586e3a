"""Errors that end a diverging PPO run, and the report of health warnings."""

from pathlib import Path

from safetensors.torch import save

from rlhf.errors import DivergedError
from rlhf.ppo.health import HealthWarning
from rlhf.ppo.updater import Updater
from rlhf.storage.atomic import replaced_file
from rlhf.tracking.console import say
from rlhf.tracking.live_view import RunView
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.checkpoint_manager import CheckpointManager
from rlhf.types import Minibatch, Rollout


def check_finite(rollout: Rollout, iteration: int, last_checkpoint: str) -> None:
    """Raise an error if a rollout contains NaN or infinity.

    Args:
        rollout: all its tensors are checked.
        iteration: number of the iteration, for the message.
        last_checkpoint: path of the last checkpoint, for the message.

    Raises:
        DivergedError: names the tensors that are not finite.
    """
    if names := rollout.not_finite():
        raise DivergedError(
            f"not finite in a rollout: {', '.join(names)}",
            f"iteration {iteration}; last checkpoint: {last_checkpoint}",
            "check the reward model's scores; train in float32, or lower ppo.lr",
        )


def check_skipped_steps(
    updater: Updater, iteration: int, directory: Path | None, minibatch: Minibatch
) -> None:
    """Stop a run that has skipped more than `max_skipped_steps` steps, and save the minibatch.

    Args:
        updater: knows how many steps of the run it skipped because they were not finite.
        iteration: number of the iteration, for the message.
        directory: run directory; None: the minibatch is not written.
        minibatch: minibatch of the last skipped step, written to `diverged.safetensors`.

    Raises:
        DivergedError: more than `max_skipped_steps` steps were skipped.
    """
    if updater.skipped_steps <= updater.config.max_skipped_steps:
        return
    place = f"iteration {iteration}"
    if directory:
        with replaced_file(directory / "diverged.safetensors") as file:
            file.write(save(minibatch.tensors()))
        place += f"; the batch is in {directory / 'diverged.safetensors'}"
    raise DivergedError(
        f"{updater.skipped_steps} optimizer steps were not finite and were skipped",
        place,
        "lower ppo.lr, or raise ppo.kl_coef",
    )


def report_warning(warning: HealthWarning, view: RunView, writer: MetricsWriter) -> None:
    """Show a health warning on the console and write it to TensorBoard.

    Args:
        warning: the warning to report.
        view: live view of the run, which continues to show it.
        writer: writes it as text at the step of the warning.
    """
    view.warn(str(warning))
    say(str(warning), "yellow")
    writer.text("health", str(warning), warning.step)


def stopped_by_warning(warning: HealthWarning, checkpoints: CheckpointManager) -> DivergedError:
    """Build the error that ends a run at a warning if ppo.on_warning=stop.

    Args:
        warning: the warning at which the run stops.
        checkpoints: those of the run; the error names the last one saved while it was healthy.
    """
    healthy = checkpoints.path(checkpoints.last_healthy_step)
    fix = f"last healthy checkpoint: {healthy}"
    if checkpoints.resume_command and checkpoints.last_healthy_step is not None:
        fix += f"; continue with: {checkpoints.resume_command(healthy)}"
    return DivergedError(str(warning), str(checkpoints.directory or ""), fix)
