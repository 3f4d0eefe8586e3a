"""Trains and evaluates the baselines of the learning comparison in child processes."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from baselines.environments import ROOT, install_hint, interpreter_of
from baselines.learning_task import StartingPoint, Task, read_curve
from baselines.runs import BENCHMARKS
from baselines.train_job import TrainJob

REWARD_CARD = "reward/reward.json"


@dataclass(frozen=True)
class Baseline:
    """A trainer and its options.

    Attributes:
        name: prefix of its run directories; of trl, the key of `train_job.MODULES`.
        title: name in tables and plots.
        module: of `baselines`, which trains.
        changes: options by dotted name that differ from the demo's.
    """

    name: str
    title: str
    module: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> str:
        """The key of `environments.RELEASES`."""
        return "ours" if self.module == "learning_ours" else self.name


BASELINES = (
    Baseline("ours", "ours, PPO", "learning_ours"),
    Baseline("trl_ppo", "trl 1.12 PPO", "train", {"ppo.gae_lambda": 0.95}),  # trl's default
    Baseline("trl_rloo", "trl 1.16 RLOO", "train"),
)


def _variant(
    name: str, title: str, changes: Mapping[str, Any] = MappingProxyType({}), **ppo: Any
) -> Baseline:
    options = {f"ppo.{option}": value for option, value in ppo.items()}
    return Baseline(name, title, "learning_ours", {**options, **changes})


GROUPS = {"critic": "shared", "samples_per_prompt": 4}
ALORA = {"model.lora_type": "alora"}
ABLATION = (
    _variant("separate", "separate critic", critic="separate"),
    _variant("shared", "shared critic", critic="shared"),
    _variant("groups", "shared critic, four responses a prompt", **GROUPS),
    _variant("alora", "shared critic, four responses, aLoRA", ALORA, **GROUPS),
    _variant(
        "detached",
        "shared_detached, four responses, aLoRA",
        ALORA,
        **GROUPS | {"critic": "shared_detached"},
    ),
)


@dataclass(frozen=True)
class Run:
    """A finished run: the metrics of each iteration, and those of the evaluation."""

    curve: list[Mapping[str, float]]
    metrics: dict[str, float]


def installed(baselines: Sequence[Baseline], environments: Path, log: Any) -> list[Baseline]:
    """Return the baselines whose environment exists; log a line for each other one."""
    available = []
    for baseline in baselines:
        if interpreter_of(baseline.environment, environments):
            available.append(baseline)
        else:
            log(f"skipped: {baseline.title}: {install_hint(baseline.environment, environments)}")
    return available


def create_starting_point(directory: Path, overrides: Sequence[str] = ()) -> None:
    """Run the demo, with one iteration of PPO, for its supervised and its reward model."""
    arguments = ["demo", "ppo.iterations=1", f"output_dir={directory}", *overrides]
    child_output([sys.executable, "-m", "rlhf", *arguments])


def find_starting_point(directory: Path) -> StartingPoint:
    """Return models and data of the last demo under `directory` that trained a reward model.

    Raises:
        FileNotFoundError: there is none, or its model or data are missing.
    """
    cards = sorted(
        directory.glob(f"**/{REWARD_CARD}"),
        key=lambda path: (path.stat().st_mtime_ns, path.parents[1].name),
    )
    if not cards:
        raise FileNotFoundError(
            f"no {REWARD_CARD} under {directory}: give the directory of an `rlhf demo`"
        )
    run = cards[-1].parents[1].resolve()
    model = Path(json.loads(cards[-1].read_text())["base"])
    for note in run.parent.glob("base-*/supervised.json"):
        if Path(json.loads(note.read_text())["run"]).name == model.parent.name and model.is_dir():
            return StartingPoint(model=str(model), reward=str(run), data=str(note.parent / "data"))
    raise FileNotFoundError(
        f"{model}, which {run.name} was trained on, has no data in {run.parent}"
    )


def run(
    baseline: Baseline,
    task: Task,
    directory: Path,
    environments: Path,
    evaluation: Callable[[Task, Path], dict[str, float]] | None = None,
) -> Run:
    """Train and evaluate; read the results of an earlier run of an equal task instead.

    Args:
        baseline: what trains.
        task: models and options.
        directory: of the run.
        environments: of trl.
        evaluation: returns metrics of the run in a directory; None: `evaluate`.

    Raises:
        RuntimeError: a child failed; the message holds the end of its output.
    """
    finished = directory / "metrics.json"
    if not (finished.exists() and (directory / "task.json").read_text() == task.to_json()):
        directory.mkdir(parents=True, exist_ok=True)
        for old in (finished, *directory.glob("metrics.jsonl"), *directory.glob("events.out.*")):
            old.unlink(missing_ok=True)
        task.write(directory)
        if baseline.module == "train":
            config = task.train_config(baseline.name)
            start = task.start
            TrainJob(
                trainer=baseline.name,
                config=config,
                run_dir=directory,
                scorer=start.scorer,
                judges=start.judges,
            ).write()
        python = str(interpreter_of(baseline.environment, environments))
        child_output([python, "-m", f"baselines.{baseline.module}", str(directory)])
        finished.write_text(json.dumps((evaluation or evaluate)(task, directory), indent=2) + "\n")
    return Run(read_curve(directory), json.loads(finished.read_text()))


def evaluate(task: Task, directory: Path) -> dict[str, float]:
    """Return the metrics of `rlhf evaluate` for the adapter in `directory`, on held-out prompts."""
    prompts = Path(task.start.data, "evaluation.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        overrides = [
            *task.overrides(),
            f"data.prompts={prompts}",
            f"output_dir={scratch}",
            "--json",
        ]
        command = [sys.executable, "-m", "rlhf", "evaluate", task.start.model, str(directory)]
        metrics = json.loads(child_output([*command, *overrides]))
    metrics.pop("report")
    return dict(metrics)


def child_output(command: Sequence[str]) -> str:
    """Return what a command prints, run with one thread and with rlhf and baselines on the path.

    Raises:
        RuntimeError: it failed; the message holds the end of its output.
    """
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{BENCHMARKS}", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **threads, **paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        output = (done.stdout + done.stderr)[-4000:]
        raise RuntimeError(f"{' '.join(command[1:4])}: exit code {done.returncode}\n{output}")
    return done.stdout
