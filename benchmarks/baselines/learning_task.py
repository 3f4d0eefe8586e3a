"""One run of the learning comparison: where it starts, its options, and what it writes.

A run's directory holds task.json; curve.jsonl, a line each iteration; adapter/, what was trained;
and metrics.json, what the package's own evaluation says of it.
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
class Start:
    """What every run begins with: a LLaVA, a reward model on it, and a directory of prompts."""

    model: str
    reward: str
    data: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """One contender's run.

    Attributes:
        start: the supervised model, the reward model's run, the data.
        seed: of prompts, weights and sampling.
        changes: options by dotted name that are not the demo's.
    """

    start: Start
    seed: int
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        """The demo's options with the changes, checked as those of a command."""
        values = yaml.safe_load(EXPERIMENT.read_text())
        for name, value in self.changes.items():
            section, option = name.split(".")
            values.setdefault(section, {})[option] = value
        return load_config({**values, "seed": self.seed})

    @property
    def prompts(self) -> Path:
        return Path(self.start.data, "preference.jsonl")

    def words(self) -> list[str]:
        """The same for the package's commands."""
        given = {"data.root": self.start.data, "reward.path": self.start.reward, **self.changes}
        return ["experiment=demo", *(f"{name}={value}" for name, value in given.items())]

    def write(self, directory: Path) -> None:
        (directory / "task.json").write_text(self.to_json())

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @staticmethod
    def read(directory: Path) -> "Task":
        values = json.loads((directory / "task.json").read_text())
        return Task(**{**values, "start": Start(**values["start"])})


class Recorder:
    """The curve of a run; time counts from `start`, so that loading a model does not."""

    def __init__(self, directory: Path, batch: int) -> None:
        self._file = (directory / "curve.jsonl").open("w")
        self._batch, self._samples, self._started = batch, 0, 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def add(self, scores: float, kl: float, length: float) -> None:
        """The iteration that ends here.

        Args:
            scores: mean score, with the penalty for a response that was cut short.
            kl: mean over responses of the summed log ratio to the supervised model, nats.
            length: mean tokens of a response, its end included.
        """
        seconds, self._samples = time.perf_counter() - self._started, self._samples + self._batch
        found = {"scores": scores, "kl": kl, "length": length}
        line = {"samples": self._samples, "seconds": seconds, **found}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read_curve(directory: Path) -> list[Mapping[str, float]]:
    """The lines of a run's curve."""
    return [json.loads(line) for line in (directory / "curve.jsonl").read_text().splitlines()]
