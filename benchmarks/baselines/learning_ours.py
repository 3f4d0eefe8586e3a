"""Our PPO on a task: python -m baselines.learning_ours DIRECTORY.

It is the command `rlhf ppo`, with the metrics of each iteration copied into the run. The wall time
of an iteration includes what the command does by default, as time/other: its sanity checks, the
samples it logs and its curves.
"""

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from baselines.learning_task import Task
from baselines.train_metrics import Recorder, load_judges
from rlhf.cli.job_runner import run_command
from rlhf.ppo.trainer import PPOTrainer
from rlhf.training.callbacks import Callback
from rlhf.types import Rollout


class JudgeCallback(Callback):
    """Keeps what judges say of the responses of each rollout.

    Args:
        judges: as `StartingPoint.judges`.
    """

    def __init__(self, judges: Mapping[str, str]) -> None:
        self.judge, self.metrics = load_judges(judges), dict[str, float]()

    def on_rollout(self, trainer: PPOTrainer, rollout: Rollout) -> None:
        texts = [trainer.policy.llava.builder.decode(row) for row in rollout.responses.rows()]
        self.metrics = self.judge(rollout.prompts, texts)


def record(recorder: Recorder, judges: Mapping[str, str]) -> None:
    """Record every iteration of a PPOTrainer, with what judges say of its responses."""
    step, callback = PPOTrainer.step, JudgeCallback(judges)

    def recorded_step(trainer: PPOTrainer, iteration: int) -> dict[str, float]:
        if iteration == 0:
            trainer.callbacks.append(callback)
            recorder.start()
        metrics = step(trainer, iteration)
        recorder.add({**metrics, **callback.metrics})
        return metrics

    PPOTrainer.step = recorded_step  # type: ignore[method-assign]


def main(directory: str) -> None:
    torch.set_num_threads(1)
    run_dir = Path(directory)
    task = Task.read(run_dir)
    record(Recorder(run_dir, task.config.ppo.rollout_batch_size), task.start.judges)
    with tempfile.TemporaryDirectory() as scratch:
        paths = [f"model.path={task.start.model}", f"data.prompts={task.prompts}"]
        overrides = [*task.overrides(), *paths, f"seed={task.seed}", f"output_dir={scratch}"]
        run, _ = run_command("ppo", [], overrides, task.start.scorer)
        shutil.move(run / "adapter", run_dir / "adapter")


if __name__ == "__main__":
    main(sys.argv[1])
