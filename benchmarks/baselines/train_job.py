"""One training of trl: its options, its scorer and its files.

Its run directory is laid out as that of `rlhf ppo`: config.yaml, metrics.jsonl, TensorBoard events,
adapter/ and summary.json; trl.json beside them names the trainer, the scorer and trl's own options.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlhf.cli.hydra_compose import to_yaml
from rlhf.commands.job import Job
from rlhf.config.schema import Config
from rlhf.config.validation import load_config

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of libraries at its import
# Trainer: the module of `baselines` that runs it; its environment: `environments.RELEASES`.
MODULES = {
    "trl_ppo": "train_ppo",
    "trl_rloo": "train_groups",
    "trl_grpo": "train_groups",
    "trl_dpo": "train_dpo",
    "trl_online_dpo": "train_online_dpo",
}
# Those that learn from scores of their own samples.
SCORED = ("trl_ppo", "trl_rloo", "trl_grpo", "trl_online_dpo")


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What a trainer is called with.

    Attributes:
        trainer: key of MODULES.
        config: the options of `rlhf ppo`, checked.
        run_dir: where the run writes.
        scorer: as `--scorer=` of `rlhf ppo`; empty: the reward model of reward.path.
        settings: options under trl's own names, which replace those made from `config`.
        judges: as `StartingPoint.judges`.
    """

    trainer: str
    config: Config
    run_dir: Path
    scorer: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    judges: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_scored(self) -> bool:
        """Whether there is something that scores responses."""
        return bool(self.scorer or self.config.reward.path)

    @property
    def as_job(self) -> Job:
        """The job of `rlhf ppo` with these options."""
        return Job(
            config=self.config,
            run_dir=self.run_dir,
            files=(),
            overrides=(),
            run_command=_refuse_command,
            scorer=self.scorer,
        )

    def write(self) -> None:
        """Write the files that `read` reads."""
        (self.run_dir / "config.yaml").write_text(to_yaml(self.config))
        values = {name: getattr(self, name) for name in ("trainer", "scorer", "settings", "judges")}
        (self.run_dir / "trl.json").write_text(json.dumps(values, indent=2) + "\n")

    @staticmethod
    def read(run_dir: Path) -> "TrainJob":
        values = json.loads((run_dir / "trl.json").read_text())
        options = yaml.safe_load((run_dir / "config.yaml").read_bytes())
        return TrainJob(config=load_config(options), run_dir=run_dir, **values)


def _refuse_command(*_: Any) -> Any:
    raise NotImplementedError("a training of trl runs no other command")
