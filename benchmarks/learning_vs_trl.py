"""Learning curves of our PPO, trl's PPO and trl's RLOO on the task of the demo.

    python benchmarks/learning_vs_trl.py --install             three seeds; 35 minutes on one core
    python benchmarks/learning_vs_trl.py --from runs/demo      from the models of a finished demo
    python benchmarks/learning_vs_trl.py --ablation            ours alone: critics, groups, aLoRA
    python benchmarks/learning_vs_trl.py --tiny                a quick check, no results

All begin with one supervised model, are scored by one reward model and take as many samples of one
file of prompts; learning rate, KL coefficient, clip, epochs, batch and minibatch are the demo's.
What trl has no option for is named in baselines/train_ppo.py and baselines/train_groups.py.
At the end `rlhf evaluate` compares each with the supervised model on held-out prompts. Runs are
processes of one thread, one at a time. A baseline whose environment is missing is skipped, and the
results of an earlier run with equal options are used again.

Prints a table, writes results/learning_vs_trl.json and .png (with --ablation:
learning_ablation), and leaves each run with its TensorBoard events in runs/learning (`tensorboard
--logdir runs/learning`: steps are samples).
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
from baselines.learning_metrics import COLUMNS, cell, draw, write_tensorboard
from baselines.learning_runs import (
    ABLATION,
    BASELINES,
    Baseline,
    Run,
    create_starting_point,
    find_starting_point,
    installed,
    run,
)
from baselines.learning_task import StartingPoint, Task
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
    baselines: Sequence[Baseline],
    start: StartingPoint,
    seeds: Sequence[int],
    changes: dict[str, Any],
    directories: tuple[Path, Path],
    log: Any,
) -> dict[str, dict[int, Run]]:
    """Run every baseline with every seed; return the runs by title and seed.

    Args:
        baselines: those without an environment are left out.
        start: models and data.
        seeds: seeds, in the order in which they run.
        changes: options by dotted name for all baselines.
        directories: of the runs, and of the environments.
        log: function that prints a line.
    """
    runs_dir, environments = directories
    baselines = installed(baselines, environments, log)
    runs: dict[str, dict[int, Run]] = {baseline.title: {} for baseline in baselines}
    for seed in seeds:
        for baseline in baselines:
            task = Task(start=start, seed=seed, changes={**changes, **baseline.changes})
            log(f"{baseline.title}, seed {seed}")
            directory = runs_dir / f"{baseline.name}-{seed}"
            finished = runs[baseline.title][seed] = run(baseline, task, directory, environments)
            write_tensorboard(directory, finished.curve)
            log(", ".join(f"{name} {cell(name, [finished])}" for name in COLUMNS))
    return runs


def table(runs: Runs) -> Table:
    """Return a table with a line for each baseline: median over seeds, and range."""
    lines = Table("baseline", *COLUMNS, title="median over seeds [least, most]")
    for title, by_seed in runs.items():
        lines.add_row(title, *(cell(name, [*by_seed.values()]) for name in COLUMNS))
    return lines


def to_json(runs: Runs, task: Task, baselines: Sequence[Baseline]) -> dict[str, Any]:
    """Return what is written: runs, options and versions, without paths or the machine's name."""
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
            title: {str(seed): _columns(run) for seed, run in by_seed.items()}
            for title, by_seed in runs.items()
        },
    }


def _columns(run: Run) -> dict[str, Any]:
    """Return a run with its curve as a list for each metric, to five digits."""
    curve = {n: [float(f"{line[n]:.5g}") for line in run.curve] for n in run.curve[0]}
    return {"metrics": run.metrics, "curve": curve}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default 0 1 2")
    parser.add_argument(
        "--from", dest="start", type=Path, help="directory of a finished `rlhf demo`"
    )
    parser.add_argument("--iterations", type=int, help="default: the demo's")
    parser.add_argument("--ablation", action="store_true", help="critics, groups, aLoRA")
    parser.add_argument("--tiny", action="store_true", help="a quick check, no results")
    parser.add_argument("--install", action="store_true", help="make missing environments first")
    parser.add_argument("--environments", type=Path, default=DIRECTORY)
    parser.add_argument("--runs-dir", type=Path, default=RUNS, help="directory of the runs")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory of the results")
    arguments = parser.parse_args(argv)
    console = Console()
    if not console.is_terminal:
        console.width = 160
    if arguments.install:
        install(arguments.environments)
    if not arguments.tiny:
        return _compare(arguments, console)
    with tempfile.TemporaryDirectory() as scratch:
        arguments.runs_dir = Path(scratch, "learning")
        return _compare(arguments, console)


def _start(arguments: argparse.Namespace, console: Console) -> StartingPoint:
    """Return the models that --from names, or those of an earlier call, or make them."""
    directory = arguments.start or arguments.runs_dir.parent / "learning-start"
    try:
        return find_starting_point(directory)
    except FileNotFoundError:
        if arguments.start:
            raise
    console.log(f"making a supervised and a reward model in {directory}")
    create_starting_point(directory, TINY_START if arguments.tiny else ())
    return find_starting_point(directory)


def _compare(arguments: argparse.Namespace, console: Console) -> int:
    try:
        start = _start(arguments, console)
    except FileNotFoundError as error:
        console.print(str(error))
        return 2
    changes = dict(TINY) if arguments.tiny else {}
    if arguments.iterations:
        changes["ppo.iterations"] = arguments.iterations
    seeds = arguments.seeds or ([0] if arguments.tiny else [0, 1, 2])
    baselines, name = BASELINES, "learning_vs_trl"
    if arguments.ablation:
        baselines, name = ABLATION, "learning_ablation"
    directories = arguments.runs_dir, arguments.environments
    runs = learn(baselines, start, seeds, changes, directories, console.log)
    console.print(table(runs))
    if not arguments.tiny:
        record = to_json(runs, Task(start=start, seed=seeds[0], changes=changes), baselines)
        (arguments.output / f"{name}.json").write_text(json_text(record, indent=2) + "\n")
        curves = {title: [run.curve for run in by_seed.values()] for title, by_seed in runs.items()}
        draw(curves).savefig(arguments.output / f"{name}.png", dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
