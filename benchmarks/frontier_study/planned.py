"""Runs of the study before they are made, and those of the sweep."""

import platform
from dataclasses import dataclass, field, replace

import torch
from baselines.learning_runs import Baseline
from baselines.learning_task import StartingPoint, Task

from frontier_study.contenders import (
    SETTINGS,
    SWEEP_SEEDS,
    Options,
    multiplied,
    options_key,
    options_read,
)
from frontier_study.results import Result
from frontier_study.tasks import FrontierTask, swept

NO_START = StartingPoint(model="", reward="", data="")  # options do not depend on it


@dataclass(frozen=True)
class Planned:
    """A run of the study.

    Attributes:
        frontier_task: what is learned.
        contender: what learns.
        seed: of prompts, weights and sampling.
        setting: multiples of the task's learning rate and KL weight.
        options: set by hand.
    """

    frontier_task: FrontierTask
    contender: Baseline
    seed: int
    setting: Options
    options: Options = field(default_factory=dict)

    def task(self, start: StartingPoint = NO_START) -> Task:
        """Return its models and options."""
        changes = {**self.frontier_task.options, **self.contender.changes}
        task = Task(start=start, seed=self.seed, changes=changes)
        return replace(task, changes={**changes, **multiplied(task, self.setting), **self.options})

    @property
    def expected(self) -> Result:
        """The result of the run, without its metrics."""
        return Result(
            task=self.frontier_task.name,
            contender=self.contender.name,
            seed=self.seed,
            setting=self.setting,
            key=options_key(options_read(self.contender, self.task())),
            machine=f"torch {torch.__version__}, {platform.processor() or platform.machine()}",
        )


def sweep(task: FrontierTask, contender: Baseline) -> list[Planned]:
    """Return the runs among which the setting of a contender is chosen."""
    return [Planned(swept(task), contender, seed, x) for x in SETTINGS for seed in SWEEP_SEEDS]
