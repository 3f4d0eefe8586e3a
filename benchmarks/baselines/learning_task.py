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
from baselines.train_metrics import JUDGED, TIMES
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
    """What every run begins with.

    Attributes:
        model: the supervised LLaVA.
        reward: run of the reward model; empty with a scorer.
        data: directory of preference.jsonl, the prompts, and evaluation.jsonl, held-out ones.
        preferences: the pairs that the reward model was trained on; empty: unknown.
        scorer: the reward as `--scorer=` names it; empty: the reward model.
        judges: metric to FILE.py:NAME, a function like a scorer that says how right each response
            is, from 0 to 1; recorded beside the reward and never trained on.
    """

    model: str
    reward: str
    data: str
    preferences: str = ""
    scorer: str = ""
    judges: Mapping[str, str] = field(default_factory=dict)


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
    def full_config(self) -> Config:
        """The options, files included."""
        config, start = self.config, self.start
        prompts, preferences = str(self.prompts), start.preferences
        return replace(
            config,
            model=replace(config.model, path=start.model),
            data=replace(config.data, prompts=prompts, preferences=preferences, root=start.data),
            reward=replace(config.reward, path=start.reward),
        )

    def train_config(self, trainer: str) -> Config:
        """Return the options of a trainer of trl, files included."""
        return checked_options(trainer, self.full_config)

    @property
    def prompts(self) -> Path:
        return Path(self.start.data, "preference.jsonl")

    def overrides(self) -> list[str]:
        """Return the options as overrides for the command line."""
        options = {"data.root": self.start.data, "reward.path": self.start.reward, **self.changes}
        texts = {name: "null" if value is None else value for name, value in options.items()}
        return ["experiment=demo", *(f"{name}={value}" for name, value in texts.items())]

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

    Of DPO, whose policy samples in some of its steps only to be measured, these steps alone count,
    and the seconds are without that sampling.

    Returns:
        scores: mean score, with the penalty for a response that was cut short; kl: mean over
        responses of the summed log-ratio to the supervised model, nats; length: mean tokens of a
        response, end-of-sequence included; samples and seconds so far; by the name of each judge
        the mean of what it says, from 0 to 1.
    """
    curves = {name: dict(points) for name, points in read_metrics(directory).items()}
    names = {name: metric for metric, name in TAGS.items()}
    names |= {x.removeprefix(JUDGED): x for x in curves if x.startswith(JUDGED)}
    seconds = _seconds(curves)
    order = dict.fromkeys(("samples", "seconds", *names))
    return [
        {name: seconds[step] if name == "seconds" else curves[names[name]][step] for name in order}
        for step in seconds
        if all(step in curves[metric] for metric in names.values())
    ]


def _seconds(curves: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Return the seconds of training until the end of each step."""
    learns_from_pairs = "reward/margin" in curves
    parts = [curves[x] for x in TIMES if x in curves and not (learns_from_pairs and x == TIMES[-1])]
    steps = sorted(set[int]().union(*parts))
    return dict(
        zip(steps, accumulate(sum(x.get(n, 0.0) for x in parts) for n in steps), strict=True)
    )
