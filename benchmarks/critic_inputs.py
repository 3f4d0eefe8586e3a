"""What a critic has to know: explained variance by the inputs of its closed-form fit.

    python benchmarks/critic_inputs.py --tasks demo describe --seeds 0 1     some minutes

The default PPO trains on a task of the frontier study. Beside it critics with other inputs predict
each rollout before they learn from it; they never touch the policy. Prints, and writes to
results/critic_inputs.json, the explained variance pooled over iterations 3 to 7 and over the last
ten, for each seed. `other_returns` needs several responses to a prompt: its rows are runs of four.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from baselines.learning_task import Task
from frontier_study.tasks import TASKS
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlhf.cli.job_runner import run_command
from rlhf.functional import VALUE_FEATURES, PooledExplainedVariance, RidgeRegression
from rlhf.ppo.value_function import LearningRollout, ValueFunction

RESULTS = Path(__file__).parent / "results" / "critic_inputs.json"
RUNS = Path(__file__).parents[1] / "runs" / "frontier"
STATES = "states"
INPUTS = (
    (STATES,),
    (STATES, "logprobs"),
    (STATES, "logprobs", "ref_logprobs"),
    (STATES, "logprobs", "ref_logprobs", "position"),
    (STATES, "logprobs", "ref_logprobs", "position", "earlier_returns"),
    ("logprobs", "ref_logprobs", "position"),
)
GROUP_INPUTS = (*INPUTS[4:5], (*INPUTS[4], "other_returns"))
WINDOWS = {"iterations 3-7": slice(2, 7), "last 10": slice(-10, None)}


@dataclass(frozen=True)
class Recorded:
    """The inputs and targets of a critic in one rollout; see `ValueFunction.learn`."""

    states: Tensor
    features: Tensor
    returns: Tensor

    def inputs(self, names: Sequence[str]) -> Tensor:
        """Return the named inputs, [N, F]."""
        columns = [VALUE_FEATURES.index(name) for name in names if name != STATES]
        return torch.cat([*[self.states] * (STATES in names), self.features[:, columns]], 1)


def record(task: Task) -> list[Recorded]:
    """Run PPO on a task; return the rollouts that its critic learnt from."""
    rollouts, learn = [], ValueFunction.learn

    def recorded(value_function: ValueFunction, rollout: LearningRollout) -> None:
        assert rollout.critic_states is not None and rollout.value_features is not None
        rows = rollout.critic_states, rollout.value_features, rollout.returns
        rollouts.append(Recorded(*rows))
        learn(value_function, rollout)

    with (
        tempfile.TemporaryDirectory() as scratch,
        mock.patch.object(ValueFunction, "learn", recorded),
    ):
        paths = [f"model.path={task.start.model}", f"data.prompts={task.prompts}"]
        overrides = [*task.overrides(), *paths, f"seed={task.seed}", f"output_dir={scratch}"]
        run_command("ppo", [], overrides, task.start.scorer)
    return rollouts


def explained(rollouts: Sequence[Recorded], names: Sequence[str]) -> dict[str, float]:
    """Return the pooled explained variance of a critic with the named inputs, by window."""
    regression, values = RidgeRegression(), []
    for rollout in rollouts:
        inputs = rollout.inputs(names)
        if regression.moments is None:
            values.append(torch.zeros(len(inputs)))
        else:
            weights, intercept = regression.solve()
            values.append((inputs.double() @ weights + intercept).float())
        regression.add(inputs, rollout.returns)
    return {name: _pooled(values[part], rollouts[part]) for name, part in WINDOWS.items()}


def _pooled(values: Sequence[Tensor], rollouts: Sequence[Recorded]) -> float:
    pooled = PooledExplainedVariance(len(values))
    for value, rollout in zip(values, rollouts, strict=True):
        pooled.add(value, rollout.returns)
    return round(pooled.value, 3)


def measure(name: str, seed: int, runs: Path) -> dict[str, dict[str, float]]:
    """Return the explained variance by the inputs of the critic, for a task and a seed."""
    frontier_task, results = TASKS[name], {}
    for samples, choices in ((1, INPUTS), (4, GROUP_INPUTS)):
        changes = {**frontier_task.options, "ppo.samples_per_prompt": samples}
        task = Task(start=frontier_task.start(runs / "start"), seed=seed, changes=changes)
        rollouts = record(task)
        for names in choices:
            row = " + ".join(names) + (", four responses a prompt" if samples > 1 else "")
            results[row] = explained(rollouts, names)
    return results


def table(task: str, seeds: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Return a table of a task: a line for the inputs, each cell with the figures of all seeds."""
    lines = Table("inputs", *WINDOWS, title=f"{task}: explained variance, seeds {', '.join(seeds)}")
    for inputs in next(iter(seeds.values())):
        cells = [
            " ".join(f"{by_inputs[inputs][w]:.2f}" for by_inputs in seeds.values()) for w in WINDOWS
        ]
        lines.add_row(inputs, *cells)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS], default=["demo", "describe"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--runs-dir", type=Path, default=RUNS, help="with the starting points")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs, console = arguments.runs_dir.absolute(), Console()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for task in arguments.tasks:
        results[task] = {str(seed): measure(task, seed, runs) for seed in arguments.seeds}
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
        console.print(table(task, results[task]))


if __name__ == "__main__":
    main()
