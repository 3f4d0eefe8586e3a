"""What ends a PPO run that diverges, and how a health warning is reported."""

from pathlib import Path

from safetensors.torch import save_file

from rlhf.errors import DivergedError
from rlhf.ppo.health import HealthWarning
from rlhf.tracking.console import say
from rlhf.tracking.live_view import RunView
from rlhf.tracking.writer import MetricsWriter
from rlhf.types import Minibatch, Rollout


def check_finite(rollout: Rollout, iteration: int, last_checkpoint: str) -> None:
    """Refuse a rollout with NaN or infinity before anything learns from it.

    Args:
        rollout: all its tensors are checked.
        iteration: named in the error.
        last_checkpoint: path named in the error.

    Raises:
        DivergedError: names the tensors that are not finite.
    """
    if names := rollout.not_finite():
        raise DivergedError(
            f"{', '.join(names)} of a rollout: not finite",
            f"iteration {iteration}; last checkpoint: {last_checkpoint}",
            "check the reward model's scores; train in float32, or lower ppo.lr",
        )


def check_skipped_steps(
    skipped_steps: int, limit: int, minibatch: Minibatch, iteration: int, directory: Path
) -> None:
    """Stop a run that has skipped more than `limit` optimizer steps; keep the last minibatch.

    Args:
        skipped_steps: steps of the run that were skipped because they were not finite.
        limit: most that may be skipped.
        minibatch: of the step skipped last; written to `diverged.safetensors`.
        iteration: named in the error.
        directory: run directory.

    Raises:
        DivergedError: more than `limit` steps were skipped.
    """
    if skipped_steps <= limit:
        return
    path = directory / "diverged.safetensors"
    save_file(minibatch.tensors(), path)
    raise DivergedError(
        f"{skipped_steps} optimizer steps were not finite and were skipped",
        f"iteration {iteration}; the batch is in {path}",
        "lower ppo.lr, or raise ppo.kl_coef",
    )


def report_warning(warning: HealthWarning, view: RunView, writer: MetricsWriter) -> None:
    """Show a health warning on the console and record it in TensorBoard.

    Args:
        warning: what to report.
        view: live view of the run, which keeps it on show.
        writer: records it as a text of its step.
    """
    view.warn(str(warning))
    say(str(warning), "yellow")
    writer.text("health", str(warning), warning.step)


def stopped_by_warning(warning: HealthWarning, directory: Path, last_healthy: str) -> DivergedError:
    """The error that ends a run at a warning when ppo.on_warning=stop.

    Args:
        warning: what the run stops for.
        directory: run directory.
        last_healthy: path of the last checkpoint saved while the run was healthy, or "none".
    """
    fix = f"last good checkpoint: {last_healthy} (resume={last_healthy} goes on from it)"
    return DivergedError(str(warning), str(directory), fix)
