"""The modules of the trainings with trl, imported from benchmarks/."""

import importlib
import sys
from pathlib import Path

LEARNING = ("task", "ours", "runs", "metrics")
TRAINING = ("job", "checks", "options", "rows", "samples", "scorer", "token_ids", "metrics", "runs")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
script = importlib.import_module("learning_vs_trl")
baseline = importlib.import_module("baseline")
environments = importlib.import_module("baselines.environments")
task_, ours, runs, metrics = (
    importlib.import_module(f"baselines.learning_{part}") for part in LEARNING
)
job_, checks, options_, rows, samples, trl, token_ids, train_metrics, train_runs = (
    importlib.import_module(f"baselines.train_{part}") for part in TRAINING
)
held_out = importlib.import_module("baselines.held_out")
sys.path.pop()
