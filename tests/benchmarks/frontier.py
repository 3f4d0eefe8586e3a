"""The modules of the frontier study, imported from benchmarks/."""

import importlib
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
script = importlib.import_module("frontier")
contenders, describe, measures, report, results, scenes, scorers, starts, study, tasks = (
    importlib.import_module(f"frontier_study.{name}")
    for name in (
        "contenders",
        "describe",
        "measures",
        "report",
        "results",
        "scenes",
        "scorers",
        "starts",
        "study",
        "tasks",
    )
)
sys.path.pop()
