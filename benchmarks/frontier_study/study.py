"""Runs what the results do not hold yet, one process of one thread each."""

import json
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from baselines.learning_runs import Run, child_output, run
from baselines.learning_task import StartingPoint, Task

from frontier_study.choice import chosen
from frontier_study.contenders import (
    CONTENDERS,
    SETTINGS,
    SWEEP_SEEDS,
    Options,
)
from frontier_study.measures import collapsed, end
from frontier_study.planned import Planned
from frontier_study.results import Result, Results, rounded
from frontier_study.starts import fingerprint
from frontier_study.tasks import TASKS, FrontierTask
from rlhf.errors import UsageError


@dataclass(frozen=True)
class Study:
    """Where runs are made and kept.

    Attributes:
        directory: of starting points and runs.
        environments: of trl.
        results: finished runs.
        jobs: runs at a time.
        deadline: no run starts after it, in seconds of `time.monotonic`.
        log: prints a line.
    """

    directory: Path
    environments: Path
    results: Results
    jobs: int
    deadline: float
    log: Any

    def make(self, planned: Sequence[Planned]) -> None:
        """Make the runs that the results do not hold, in order, until the deadline.

        A task whose starting point cannot be made here is left out, with a line that says why.
        """
        missing = [one for one in planned if not self.results.find(one.expected)]
        tasks = dict.fromkeys(one.frontier_task for one in missing)
        starts = {task.name: start for task in tasks if (start := self._start(task))}
        possible = [one for one in missing if one.frontier_task.name in starts]
        with ThreadPoolExecutor(self.jobs) as pool:
            ends = pool.map(lambda x: self._make(x, starts[x.frontier_task.name]), possible)
            deque(ends, maxlen=0)

    def _start(self, task: FrontierTask) -> StartingPoint | None:
        try:
            start = task.start(self.directory / "start")
            self.results.check_start(task.name, fingerprint(start))
            return start
        except UsageError as error:
            self.log(f"{task.name} is left out\n{error}")
            return None

    def _make(self, one: Planned, start: StartingPoint) -> None:
        if time.monotonic() > self.deadline:
            return
        result, task = replace(one.expected, start=fingerprint(start)), one.task(start)
        title = f"{result.task}, {one.contender.title}, seed {one.seed}, {_text(one.setting)}"
        self.log(title)
        directory = self.directory / result.task / f"{result.contender}-{one.seed}-{result.key}"
        evaluation = not_evaluated if one.seed in SWEEP_SEEDS else held_out
        try:
            finished = run(one.contender, task, directory, self.environments, evaluation)
        except RuntimeError as error:
            self.log(f"{title} failed:\n{error}")
            return
        result = measured(result, finished)
        self.results.add(result)
        self.log(f"{title}: {_text(result.end)}")


def measured(result: Result, finished: Run) -> Result:
    """Return a result with the metrics of its run; that of a sweep keeps no curve."""
    curve = {name: rounded(line[name] for line in finished.curve) for name in finished.curve[0]}
    means = {name: end(curve, name) for name in curve if name not in ("samples", "seconds")}
    means["collapsed"] = float(collapsed(curve))
    kept = {} if result.seed in SWEEP_SEEDS else curve
    means = dict(zip(means, rounded(means.values()), strict=True))
    return replace(result, curve=kept, end=means, held_out=finished.metrics)


def finished_runs(results: Results, options: Options) -> dict[str, dict[str, list[Result]]]:
    """Return the finished runs, but for the sweep's, with the settings that are reported.

    These are the one that a contender chose and, under the title with ` ×1`, the task's own one.

    Args:
        results: finished runs.
        options: that were set by hand.

    Returns:
        Runs by the name of their task, then by title, both in the order of the study.
    """
    runs: dict[str, dict[str, list[Result]]] = {}
    for task, contender in product(TASKS.values(), CONTENDERS.values()):
        title, setting = contender.title, chosen(results, task, contender)
        titles = {title: setting} | ({} if setting == SETTINGS[0] else {f"{title} ×1": SETTINGS[0]})
        for name, shown in titles.items():
            one = Planned(task, contender, 0, shown, options).expected
            identity = (one.task, one.contender, one.key)
            found = [x for x in results if (x.task, x.contender, x.key) == identity]
            if kept := [x for x in found if x.seed not in SWEEP_SEEDS]:
                runs.setdefault(task.name, {})[name] = kept
    return runs


def not_evaluated(task: Task, directory: Path) -> dict[str, float]:
    """Return no metric: a run of the sweep is chosen by its curve."""
    return {}


def held_out(task: Task, directory: Path) -> dict[str, float]:
    """Return the metrics of a finished run on held-out prompts."""
    output = child_output([sys.executable, "-m", "baselines.held_out", str(directory)])
    return dict(json.loads(output.splitlines()[-1]))


def _text(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.3g}" for name, value in values.items())
