"""The modules of the frontier study, imported from benchmarks/."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"frontier_study.{name}")


sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
script = importlib.import_module("frontier")
answers, choice, contenders, describe = map(
    _module, ("answers", "choice", "contenders", "describe")
)
measures, planned, report, results = map(_module, ("measures", "planned", "report", "results"))
scenes, scorers, starts, study = map(_module, ("scenes", "scorers", "starts", "study"))
describe, tasks = map(_module, ("describe", "tasks"))
sys.path.pop()


def curve(scores: Sequence[float], kl: Sequence[float], accuracy: float = 0.5) -> dict[str, Any]:
    """Return a curve of iterations of 64 samples and two seconds."""
    count = len(scores)
    return {
        "samples": [64.0 * n for n in range(1, count + 1)],
        "seconds": [2.0 * n for n in range(1, count + 1)],
        "scores": [*scores],
        "kl": [*kl],
        "length": [7.0] * count,
        "accuracy": [accuracy] * count,
    }
