"""Callbacks: what a user adds to a training loop, called at fixed points."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.types import Rollout


class Callback:
    """Base class of callbacks; override the methods that are needed.

    An iteration of PPO calls `on_rollout`, `on_update` and `on_iteration`, in this order; a step of
    supervised or reward-model training calls `on_iteration`. What they hand to `Trainer.log` is
    written with the metrics of the iteration. An error that a callback raises ends the run.
    """

    def on_rollout(self, trainer: Any, rollout: Rollout) -> None:
        """Called when the responses of an iteration are sampled and scored.

        Args:
            trainer: the trainer that runs.
            rollout: B responses of N tokens with scores, log-probabilities and values.
        """

    def on_update(self, trainer: Any, steps: Sequence[Any]) -> None:
        """Called after the optimizer steps of an iteration.

        Args:
            trainer: the trainer that runs.
            steps: `StepMetrics` of each optimizer step.
        """

    def on_iteration(self, trainer: Any, metrics: Mapping[str, float]) -> bool | None:
        """Called with the metrics of an iteration, before they are written.

        Args:
            trainer: the trainer that runs.
            metrics: by the names of METRICS, and those that were logged before.

        Returns:
            False ends the run after this iteration, whose checkpoint is saved.
        """

    def on_save(self, trainer: Any, path: Path) -> None:
        """Called when a checkpoint is written.

        Args:
            trainer: the trainer that runs.
            path: directory of the checkpoint.
        """

    def on_end(self, trainer: Any) -> None:
        """Called once, when the last iteration is done or a callback ended the run."""


def call(callbacks: Sequence[Callback], method: str, trainer: Any, *arguments: Any) -> bool:
    """Call a method of each callback, in order; whether none returned False.

    Args:
        callbacks: all of them are called.
        method: e.g. `on_rollout`.
        trainer: the first argument.
        *arguments: the other ones.
    """
    results = [getattr(callback, method)(trainer, *arguments) for callback in callbacks]
    return all(result is not False for result in results)
