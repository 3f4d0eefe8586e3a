"""The frontier study: what a score costs in samples, seconds and KL, for each trainer and task.

    python benchmarks/frontier.py --install                       the whole study, hours
    python benchmarks/frontier.py --minutes 60 --jobs 2           an hour of it; again goes on
    python benchmarks/frontier.py --tasks describe --contenders ppo rloo --seeds 0 1
    python benchmarks/frontier.py --tasks describe --contenders ppo --seeds 0 \\
        --set ppo.gae_lambda=1                                     a try, kept apart
    python benchmarks/frontier.py --merge other.json              runs made elsewhere
    python benchmarks/frontier.py --report                        table and charts alone

All contenders of a task begin with one supervised model and have one reward, one file of prompts
and as many samples. Each chooses its learning rate and KL weight by the same sweep on seeds of its
own. A finished run is written to results/frontier.json and not made again while its options,
defaults included, are the same. docs/pages/results/frontier.md says what is measured.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from baselines.environments import DIRECTORY, ROOT, install
from baselines.learning_runs import Baseline, installed
from frontier_study.choice import chosen
from frontier_study.contenders import CONTENDERS
from frontier_study.planned import Planned, sweep
from frontier_study.report import write_report
from frontier_study.results import Results, read_results
from frontier_study.study import Study, finished_runs
from frontier_study.tasks import TASKS, FrontierTask
from rich.console import Console

from rlhf.errors import UsageError, expected_error
from rlhf.tracking.console import print_error

RESULTS = Path(__file__).parent / "results" / "frontier.json"
RUNS = ROOT / "runs" / "frontier"


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Return the options of `--set SECTION.OPTION=VALUE`, with values read as JSON, else as text.

    Raises:
        UsageError: a word is no option of a section.
    """
    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name.count(".") != 1 or not equals:
            fix = "write --set SECTION.OPTION=VALUE, e.g. --set ppo.gae_lambda=1"
            raise UsageError("this sets no option of a run", f"--set {word}", fix)
        options[name] = _value(value)
    return options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def pairs(arguments: argparse.Namespace, log: Any) -> list[tuple[FrontierTask, Baseline]]:
    """Return tasks and contenders that can run: trl is installed, and DPO has pairs."""
    contenders = [CONTENDERS[name] for name in arguments.contenders]
    available = installed(contenders, arguments.environments, log)
    tasks = [TASKS[name] for name in arguments.tasks]
    return [(t, c) for t in tasks for c in available if t.has_pairs or c.name != "trl_dpo"]


def plan(results: Results, arguments: argparse.Namespace, log: Any) -> list[Planned]:
    """Return the runs of each contender with the setting that it chose, seed after seed."""
    options, compared = parse_options(arguments.set), pairs(arguments, log)
    settings = [chosen(results, task, contender) for task, contender in compared]
    seeds = arguments.seeds or range(max((task.seeds for task, _ in compared), default=0))
    return [
        Planned(task, contender, seed, setting, options)
        for seed in seeds
        for (task, contender), setting in zip(compared, settings, strict=True)
        if arguments.seeds or seed < task.seeds
    ]


def run(study: Study, arguments: argparse.Namespace, log: Any) -> None:
    """Make the sweep, then the planned runs."""
    if arguments.sweep and not arguments.set:
        compared = pairs(arguments, log)
        study.make([one for task, contender in compared for one in sweep(task, contender)])
    study.make(plan(study.results, arguments, log))


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS], default=[*TASKS])
    parser.add_argument("--contenders", nargs="+", choices=[*CONTENDERS], default=[*CONTENDERS])
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: the task's")
    parser.add_argument("--set", nargs="+", default=[], metavar="OPTION=VALUE", help="no sweep")
    parser.add_argument("--no-sweep", dest="sweep", action="store_false", help="as it stands")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, of one thread each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="then start no run")
    parser.add_argument("--merge", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--install", action="store_true", help="make trl's environments first")
    parser.add_argument("--environments", type=Path, default=DIRECTORY)
    parser.add_argument("--runs-dir", type=Path, default=RUNS, help="starting points and runs")
    parser.add_argument("--output", type=Path, help="results; of a try: RUNS_DIR/tried.json")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parsed(argv)
    torch.set_num_threads(1)
    console = Console(soft_wrap=True, markup=False, log_path=False)
    directory = arguments.runs_dir.absolute()
    results = Results(arguments.output or (directory / "tried.json" if arguments.set else RESULTS))
    deadline = time.monotonic() + 60 * arguments.minutes
    jobs, environments = arguments.jobs, arguments.environments
    study = Study(directory, environments, results, jobs, deadline, console.log)
    try:
        if arguments.install:
            install(environments)
        for path in arguments.merge:
            results.add(*read_results(path))
        if not (arguments.report or arguments.merge):
            run(study, arguments, console.log)
        runs = finished_runs(results, parse_options(arguments.set))
        print(write_report(runs, results.path))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not (known := expected_error(error)):
            raise
        print_error(known)
        return known.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
