"""Our PPO on a task: python -m baselines.learning_ours DIRECTORY.

It is the command `rlhf ppo`, with the metrics of each iteration copied into the curve. The wall
time of an iteration includes what the command does by default: the proof of its invariants, the
samples it logs and its curves.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch

from baselines.learning_task import Recorder, Task
from rlhf.cli.main import run_command
from rlhf.ppo.trainer import PPOTrainer


def record(recorder: Recorder) -> None:
    """Let every iteration of a PPOTrainer add to the curve."""
    step = PPOTrainer.step

    def recorded(trainer: PPOTrainer, iteration: int) -> dict[str, float]:
        if iteration == 0:
            recorder.start()
        metrics = step(trainer, iteration)
        names = ("objective/scores", "objective/kl", "tokens/responses_len_mean")
        recorder.add(*(metrics[name] for name in names))
        return metrics

    PPOTrainer.step = recorded  # type: ignore[method-assign]


def main(directory: str) -> None:
    torch.set_num_threads(1)
    place = Path(directory)
    task = Task.read(place)
    record(Recorder(place, task.config.ppo.rollout_batch_size))
    with tempfile.TemporaryDirectory() as scratch:
        own = [f"model.path={task.start.model}", f"data.prompts={task.prompts}"]
        words = [*task.words(), *own, f"seed={task.seed}", f"output_dir={scratch}"]
        run, _ = run_command("ppo", [], words)
        shutil.move(run / "adapter", place / "adapter")


if __name__ == "__main__":
    main(sys.argv[1])
