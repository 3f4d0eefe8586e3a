"""The modules of the learning comparison, imported from benchmarks/."""

import importlib
import sys
from pathlib import Path

PARTS = ("task", "ours", "trl", "token_ids", "runs", "metrics")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
script = importlib.import_module("learning_vs_trl")
task_, ours, trl, token_ids, runs, metrics = (
    importlib.import_module(f"baselines.learning_{part}") for part in PARTS
)
sys.path.pop()
