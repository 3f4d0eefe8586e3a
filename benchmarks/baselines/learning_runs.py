"""The baselines of the learning comparison as child processes, and the evaluation of each."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from baselines.environments import ROOT, missing, python_of
from baselines.learning_task import Start, Task, read_curve
from baselines.runs import BENCHMARKS

CARD = "reward/reward.json"


@dataclass(frozen=True)
class Contender:
    """Who learns.

    Attributes:
        name: of its run directories.
        title: as printed.
        module: that trains.
        environment: as `environments.RELEASES` names it.
        changes: options by dotted name that are its own.
    """

    name: str
    title: str
    module: str
    environment: str
    changes: Mapping[str, Any] = field(default_factory=dict)


CONTENDERS = (
    Contender("ours", "ours, PPO", "learning_ours", "ours"),
    Contender("trl_ppo", "trl 1.12 PPO", "learning_ppo", "trl_ppo"),
    Contender("trl_rloo", "trl 1.16 RLOO", "learning_rloo", "trl_groups"),
)


def _own(
    name: str, title: str, changes: Mapping[str, Any] = MappingProxyType({}), **ppo: Any
) -> Contender:
    own = {f"ppo.{option}": value for option, value in ppo.items()}
    return Contender(name, title, "learning_ours", "ours", {**own, **changes})


GROUPS = {"critic": "shared", "samples_per_prompt": 4}
LATE = {"model.lora_type": "alora"}
LADDER = (
    _own("separate", "separate critic", critic="separate"),
    _own("shared", "shared critic", critic="shared"),
    _own("groups", "shared critic, four responses a prompt", **GROUPS),
    _own("response", "the same, LoRA on the response", LATE, **GROUPS),
    _own("detached", "the same, shared_detached", LATE, **GROUPS | {"critic": "shared_detached"}),
)


@dataclass(frozen=True)
class Run:
    """A finished run: a line of metrics each iteration, and what the evaluation found."""

    curve: list[Mapping[str, float]]
    metrics: dict[str, float]


def present(baselines: Sequence[Contender], environments: Path, say: Any) -> list[Contender]:
    """Those whose environment is there; of each other one line is said."""
    found = []
    for contender in baselines:
        if python_of(contender.environment, environments):
            found.append(contender)
        else:
            say(f"skipped: {contender.title}: {missing(contender.environment, environments)}")
    return found


def make_start(directory: Path, words: Sequence[str] = ()) -> None:
    """Run the demo for its supervised and its reward model; its own PPO is kept to an iteration."""
    own = ["demo", "ppo.iterations=1", f"output_dir={directory}", *words]
    _child([sys.executable, "-m", "rlhf", *own])


def start_of(directory: Path) -> Start:
    """The models and the data of the last demo under `directory` that got as far as a reward model.

    Raises:
        FileNotFoundError: there is none, or its model or its data are gone.
    """
    cards = sorted(directory.glob(f"**/{CARD}"), key=lambda path: path.parents[1].name)
    if not cards:
        raise FileNotFoundError(f"no {CARD} under {directory}: give the folder of an `rlhf demo`")
    run = cards[-1].parents[1].resolve()
    model = Path(json.loads(cards[-1].read_text())["base"])
    for note in run.parent.glob("base-*/supervised.json"):
        if Path(json.loads(note.read_text())["run"]).name == model.parent.name and model.is_dir():
            return Start(model=str(model), reward=str(run), data=str(note.parent / "data"))
    raise FileNotFoundError(
        f"{model}, which {run.name} was trained on, has no data in {run.parent}"
    )


def run(contender: Contender, task: Task, directory: Path, environments: Path) -> Run:
    """Train and evaluate; a run of the same task that finished earlier is read again.

    Raises:
        RuntimeError: with the end of what it said, if a child failed.
    """
    finished = directory / "metrics.json"
    if not (finished.exists() and (directory / "task.json").read_text() == task.to_json()):
        directory.mkdir(parents=True, exist_ok=True)
        finished.unlink(missing_ok=True)
        task.write(directory)
        python = str(python_of(contender.environment, environments))
        _child([python, "-m", f"baselines.{contender.module}", str(directory)])
        finished.write_text(json.dumps(evaluate(task, directory), indent=2) + "\n")
    return Run(read_curve(directory), json.loads(finished.read_text()))


def evaluate(task: Task, directory: Path) -> dict[str, float]:
    """What `rlhf evaluate` finds of the adapter in `directory`, on the held-out prompts."""
    prompts = Path(task.start.data, "evaluation.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        words = [*task.words(), f"data.prompts={prompts}", f"output_dir={scratch}", "--json"]
        command = [sys.executable, "-m", "rlhf", "evaluate", task.start.model, str(directory)]
        found = json.loads(_child([*command, *words]))
    found.pop("report")
    return dict(found)


def _child(command: Sequence[str]) -> str:
    """What it printed, in a process of one thread that finds the package and the baselines."""
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    places = {"PYTHONPATH": f"{ROOT}{os.pathsep}{BENCHMARKS}", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **one, **places}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr)[-4000:]
        raise RuntimeError(f"{' '.join(command[1:4])}: exit code {done.returncode}\n{said}")
    return done.stdout
