"""Learning side by side: our PPO, trl's PPO and trl's RLOO on the task of the demo.

    python benchmarks/learning_vs_trl.py --install             three seeds; 35 minutes on one core
    python benchmarks/learning_vs_trl.py --from runs/demo      from the models of a finished demo
    python benchmarks/learning_vs_trl.py --ladder              ours alone: what saves time, learns
    python benchmarks/learning_vs_trl.py --tiny                does it run? no results

All begin with one supervised model, are scored by one reward model and take as many samples of one
file of prompts; learning rate, KL coefficient, clip, epochs, batch and minibatch are the demo's.
What trl has no option for is named in baselines/learning_ppo.py and baselines/learning_rloo.py.
In the end our own evaluation compares each with the supervised model on held-out prompts. Each run
is a process of one thread, after the other. A contender whose environment is missing is skipped,
and a run that finished earlier with the same options is read again.

Prints a table, writes results/learning_vs_trl.json and .png (with --ladder learning_ladder), and
leaves each run with its TensorBoard events in runs/learning (`tensorboard --logdir runs/learning`:
steps are samples).
"""

import argparse
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from baselines.environments import DIRECTORY, RELEASES, ROOT, install
from baselines.learning_metrics import COLUMNS, cell, draw, write_board
from baselines.learning_runs import (
    CONTENDERS,
    LADDER,
    Contender,
    Run,
    make_start,
    present,
    run,
    start_of,
)
from baselines.learning_task import Start, Task
from rich.console import Console
from rich.table import Table

from rlhf.storage.run_directory import json_text

RESULTS = Path(__file__).parent / "results"
RUNS = ROOT / "runs" / "learning"
TINY: dict[str, Any] = {
    "sampling.max_new_tokens": 16,
    "ppo.iterations": 2,
    "ppo.critic_warmup_iterations": 1,
    "ppo.rollout_batch_size": 8,
    "ppo.minibatch_size": 4,
    "ppo.ppo_epochs": 1,
    "evaluation.limit": 8,
}
TINY_START = (
    "demo.sft_images=40",
    "demo.preference_images=20",
    "demo.evaluation_images=8",
    "demo.tower_steps=5",
    "sft.epochs=1",
    "reward.epochs=1",
)

Runs = Mapping[str, Mapping[int, Run]]


def learn(
    baselines: Sequence[Contender],
    start: Start,
    seeds: Sequence[int],
    changes: dict[str, Any],
    directories: tuple[Path, Path],
    say: Any,
) -> dict[str, dict[int, Run]]:
    """Every contender's runs by title and seed, a seed of all of them at a time.

    Args:
        directories: of the runs, and of the environments.
    """
    place, environments = directories
    baselines = present(baselines, environments, say)
    found: dict[str, dict[int, Run]] = {contender.title: {} for contender in baselines}
    for seed in seeds:
        for contender in baselines:
            task = Task(start=start, seed=seed, changes={**changes, **contender.changes})
            say(f"{contender.title}, seed {seed}")
            directory = place / f"{contender.name}-{seed}"
            done = found[contender.title][seed] = run(contender, task, directory, environments)
            write_board(directory, done.curve)
            say(", ".join(f"{name} {cell(name, [done])}" for name in COLUMNS))
    return found


def table(found: Runs) -> Table:
    """A line for each contender: median over seeds, and range."""
    lines = Table("contender", *COLUMNS, title="median over seeds [least, most]")
    for title, by_seed in found.items():
        lines.add_row(title, *(cell(name, [*by_seed.values()]) for name in COLUMNS))
    return lines


def written(found: Runs, task: Task, baselines: Sequence[Contender]) -> dict[str, Any]:
    """All that is kept: no name of a machine and no path."""
    config = task.config
    names = ("torch", "transformers", "peft", "accelerate")
    return {
        "versions": {name: version(name) for name in names},
        "trl": sorted({RELEASES[x.environment] or "" for x in baselines} - {""}),
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "threads": 1,
        "options": {
            "ppo": asdict(config.ppo),
            "sampling": asdict(config.sampling),
            "lora": {"rank": config.model.lora_rank, "alpha": config.model.lora_alpha},
        },
        "runs": {
            title: {str(seed): _columns(one) for seed, one in by_seed.items()}
            for title, by_seed in found.items()
        },
    }


def _columns(one: Run) -> dict[str, Any]:
    """A run with its curve as a list for each metric, to five digits."""
    curve = {n: [float(f"{line[n]:.5g}") for line in one.curve] for n in one.curve[0]}
    return {"metrics": one.metrics, "curve": curve}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default 0 1 2")
    parser.add_argument("--from", dest="start", type=Path, help="folder of a finished `rlhf demo`")
    parser.add_argument("--iterations", type=int, help="default: the demo's")
    parser.add_argument("--ladder", action="store_true", help="critics, groups, LoRA's scope")
    parser.add_argument("--tiny", action="store_true", help="seconds, and no results")
    parser.add_argument("--install", action="store_true", help="make missing environments first")
    parser.add_argument("--environments", type=Path, default=DIRECTORY)
    parser.add_argument("--folder", type=Path, default=RUNS, help="where the runs are left")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the results go")
    given = parser.parse_args(words)
    console = Console()
    if not console.is_terminal:
        console.width = 160
    if given.install:
        install(given.environments)
    if not given.tiny:
        return _compare(given, console)
    with tempfile.TemporaryDirectory() as scratch:
        given.directory = Path(scratch, "learning")
        return _compare(given, console)


def _start(given: argparse.Namespace, console: Console) -> Start:
    """What was asked for, or else what an earlier call made, or is made here."""
    place = given.start or given.directory.parent / "learning-start"
    try:
        return start_of(place)
    except FileNotFoundError:
        if given.start:
            raise
    console.log(f"making a supervised and a reward model in {place}")
    make_start(place, TINY_START if given.tiny else ())
    return start_of(place)


def _compare(given: argparse.Namespace, console: Console) -> int:
    try:
        start = _start(given, console)
    except FileNotFoundError as error:
        console.print(str(error))
        return 2
    changes = dict(TINY) if given.tiny else {}
    if given.iterations:
        changes["ppo.iterations"] = given.iterations
    seeds = given.seeds or ([0] if given.tiny else [0, 1, 2])
    baselines, name = CONTENDERS, "learning_vs_trl"
    if given.ladder:
        baselines, name = LADDER, "learning_ladder"
    directories = given.directory, given.environments
    found = learn(baselines, start, seeds, changes, directories, console.log)
    console.print(table(found))
    if not given.tiny:
        kept = written(found, Task(start=start, seed=seeds[0], changes=changes), baselines)
        (given.output / f"{name}.json").write_text(json_text(kept, indent=2) + "\n")
        curves = {title: [one.curve for one in runs.values()] for title, runs in found.items()}
        draw(curves).savefig(given.output / f"{name}.png", dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
