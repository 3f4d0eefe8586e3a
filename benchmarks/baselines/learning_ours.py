"""Our PPO on a task: python -m baselines.learning_ours DIRECTORY.

It is the command `rlhf ppo`, with the metrics of each iteration copied into the run. The wall time
of an iteration includes what the command does by default, as time/other: its sanity checks, the
samples it logs and its curves.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch

from baselines.learning_task import Task
from baselines.train_metrics import Recorder
from rlhf.cli.job_runner import run_command
from rlhf.ppo.trainer import PPOTrainer


def record(recorder: Recorder) -> None:
    """Record every iteration of a PPOTrainer."""
    step = PPOTrainer.step

    def recorded_step(trainer: PPOTrainer, iteration: int) -> dict[str, float]:
        if iteration == 0:
            recorder.start()
        metrics = step(trainer, iteration)
        recorder.add(metrics)
        return metrics

    PPOTrainer.step = recorded_step  # type: ignore[method-assign]


def main(directory: str) -> None:
    torch.set_num_threads(1)
    run_dir = Path(directory)
    task = Task.read(run_dir)
    record(Recorder(run_dir, task.config.ppo.rollout_batch_size))
    with tempfile.TemporaryDirectory() as scratch:
        paths = [f"model.path={task.start.model}", f"data.prompts={task.prompts}"]
        overrides = [*task.overrides(), *paths, f"seed={task.seed}", f"output_dir={scratch}"]
        run, _ = run_command("ppo", [], overrides)
        shutil.move(run / "adapter", run_dir / "adapter")


if __name__ == "__main__":
    main(sys.argv[1])
