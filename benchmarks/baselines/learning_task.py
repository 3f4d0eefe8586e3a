"""One run of the learning comparison: its models, its options and its files.

A run's directory holds task.json; curve.jsonl, a line each iteration; adapter/, the trained LoRA;
and metrics.json, from `rlhf evaluate`.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from baselines.environments import ROOT
from rlhf.config.schema import Config
from rlhf.config.validation import load_config

EXPERIMENT = ROOT / "conf" / "experiment" / "demo.yaml"


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """The supervised LLaVA, reward model and directory of prompts that every run begins with."""

    model: str
    reward: str
    data: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """The run of a baseline.

    Attributes:
        start: the supervised model, the reward model's run, the data.
        seed: of prompts, weights and sampling.
        changes: options by dotted name that are not the demo's.
    """

    start: StartingPoint
    seed: int
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        """The demo's options with the changes, validated."""
        values = yaml.safe_load(EXPERIMENT.read_text())
        for name, value in self.changes.items():
            section, option = name.split(".")
            values.setdefault(section, {})[option] = value
        return load_config({**values, "seed": self.seed})

    @property
    def prompts(self) -> Path:
        return Path(self.start.data, "preference.jsonl")

    def overrides(self) -> list[str]:
        """Return the options as overrides for the command line."""
        options = {"data.root": self.start.data, "reward.path": self.start.reward, **self.changes}
        return ["experiment=demo", *(f"{name}={value}" for name, value in options.items())]

    def write(self, directory: Path) -> None:
        (directory / "task.json").write_text(self.to_json())

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @staticmethod
    def read(directory: Path) -> "Task":
        values = json.loads((directory / "task.json").read_text())
        return Task(**{**values, "start": StartingPoint(**values["start"])})


class Recorder:
    """Writes the curve of a run; time counts from `start`, after the model was loaded."""

    def __init__(self, directory: Path, batch: int) -> None:
        self._file = (directory / "curve.jsonl").open("w")
        self._batch, self._samples, self._started = batch, 0, 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def add(self, scores: float, kl: float, length: float) -> None:
        """Write a line for the iteration that ends now.

        Args:
            scores: mean score, with the penalty for a response that was cut short.
            kl: mean over responses of the summed log-ratio to the supervised model, nats.
            length: mean tokens of a response, end-of-sequence included.
        """
        seconds, self._samples = time.perf_counter() - self._started, self._samples + self._batch
        metrics = {"scores": scores, "kl": kl, "length": length}
        line = {"samples": self._samples, "seconds": seconds, **metrics}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read_curve(directory: Path) -> list[Mapping[str, float]]:
    """Return the lines of a run's curve."""
    return [json.loads(line) for line in (directory / "curve.jsonl").read_text().splitlines()]
