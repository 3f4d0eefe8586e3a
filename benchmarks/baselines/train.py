"""Runs a training of trl: python -m baselines.train RUN_DIR, where trl is installed."""

import importlib
import os
import sys
from pathlib import Path

import torch
from transformers import set_seed

from baselines.train_job import MODULES, TrainJob
from rlhf.errors import expected_error
from rlhf.tracking.console import print_error


def main(run_dir: str) -> int:
    """Train, and return the exit code of `rlhf`: an expected error is printed in three lines."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    try:
        job = TrainJob.read(Path(run_dir))
        set_seed(job.config.seed)  # trl's PPO leaves the generator of numpy as it is
        importlib.import_module(f"baselines.{MODULES[job.trainer]}").train(job)
    except Exception as error:
        if not (known := expected_error(error)):
            raise
        print_error(known)
        return known.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
