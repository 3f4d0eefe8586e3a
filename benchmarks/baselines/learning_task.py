"""One run of the learning comparison: its models, its options and its files.

A run's directory holds task.json; metrics.jsonl, a line each iteration; adapter/, the trained LoRA;
and metrics.json, from `rlhf evaluate`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from baselines.environments import ROOT
from baselines.train_checks import checked_options
from baselines.train_metrics import TIMES
from rlhf.config.schema import Config
from rlhf.config.validation import load_config
from rlhf.tracking.reader import read_metrics

EXPERIMENT = ROOT / "conf" / "experiment" / "demo.yaml"
TAGS = {
    "objective/scores": "scores",
    "objective/kl": "kl",
    "tokens/responses_len_mean": "length",
    "episode": "samples",
}


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

    def train_config(self, trainer: str) -> Config:
        """Return the options of a trainer of trl, files included."""
        config = self.config
        return checked_options(
            trainer,
            replace(
                config,
                model=replace(config.model, path=self.start.model),
                data=replace(config.data, prompts=str(self.prompts), root=self.start.data),
                reward=replace(config.reward, path=self.start.reward),
            ),
        )

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


def read_curve(directory: Path) -> list[Mapping[str, float]]:
    """Return the metrics of each iteration of a run, with seconds from the first one's beginning.

    Returns:
        scores: mean score, with the penalty for a response that was cut short; kl: mean over
        responses of the summed log-ratio to the supervised model, nats; length: mean tokens of a
        response, end-of-sequence included; samples and seconds so far.
    """
    curves = read_metrics(directory)
    columns = {name: [value for _, value in curves[metric]] for metric, name in TAGS.items()}
    parts = [[value for _, value in curves[name]] for name in TIMES if name in curves]
    seconds = accumulate(sum(times) for times in zip(*parts, strict=True))
    columns = {"samples": columns.pop("samples"), "seconds": list(seconds), **columns}
    return [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]
