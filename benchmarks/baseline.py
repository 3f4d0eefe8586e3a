"""Trains your model with trl, on your prompts and your reward, to compare it with `rlhf ppo`.

    python benchmarks/baseline.py trl_ppo --install     makes the environment of trl, once
    python benchmarks/baseline.py trl_grpo model.path=MODEL data.prompts=FILE.jsonl reward.path=RUN
    python benchmarks/baseline.py trl_rloo … ppo.lr=1e-5 --scorer=my_scorer.py:score
    python benchmarks/baseline.py trl_dpo model.path=MODEL data.preferences=FILE.jsonl \\
        [data.prompts=FILE.jsonl reward.path=RUN]       with both, samples are scored on the way
    python benchmarks/baseline.py trl_grpo … --set loss_type=grpo --set scale_rewards=none

Options are those of `rlhf ppo` under the same names, with the same defaults; --set changes one of
trl's that rlhf has none for (`--set gradient_accumulation_steps=4` takes less memory). The run is
written as that of `rlhf ppo`, to output_dir/name (runs/trl_grpo), so that `rlhf compare` and
TensorBoard draw its curves beside ours, and `rlhf evaluate` judges its model.
What trl has no option for is named in baselines/train_ppo.py, train_groups.py and train_dpo.py.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from baselines.environments import DIRECTORY, install
from baselines.train_checks import check_settings, unread_options
from baselines.train_job import MODULES, TrainJob
from baselines.train_runs import check_inputs, compose, interpreter, run_child, summary

from rlhf.errors import UsageError, as_usage_error, expected_error
from rlhf.storage.run_directory import RunDirectory
from rlhf.tracking.console import print_error, say


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """Return trl's options of `--set NAME=VALUE`, with values read as YAML.

    Raises:
        UsageError: a word has no name or no value.
    """
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name.isidentifier() or not equals:
            fix = "write --set NAME=VALUE, e.g. --set beta=0.1"
            raise UsageError("this sets no option of trl", f"--set {word}", fix)
        with as_usage_error("the value is no YAML", f"--set {word}", "quote a text: --set a='b'"):
            settings[name] = yaml.safe_load(value)
    return settings


def prepare(arguments: argparse.Namespace) -> tuple[TrainJob, RunDirectory]:
    """Check everything that can be checked without weights; return the job and its new run."""
    trainer, words = arguments.trainer, arguments.options
    settings = parse_settings(arguments.set)
    config = compose(trainer, words)
    check_settings(trainer, config, settings)
    interpreter(trainer, arguments.environments)
    check_inputs(trainer, config, arguments.scorer)
    if unread := unread_options(trainer, words):
        say(f"{trainer} does not read {' '.join(unread)}", "yellow")
    run = RunDirectory.create(Path(config.output_dir), config.name)
    job = TrainJob(
        trainer=trainer,
        config=config,
        run_dir=run.path,
        scorer=arguments.scorer,
        settings=settings,
    )
    job.write()
    say(f"run directory {run.path}")
    return job, run


def run(arguments: argparse.Namespace) -> int:
    job, directory = prepare(arguments)
    python = interpreter(job.trainer, arguments.environments)
    if code := run_child(python, job.run_dir):
        return code
    directory.write_summary(summary(job))
    run_dir, model = job.run_dir.parent, job.config.model.path  # named after the trainer
    say(f"next: rlhf compare {run_dir} OUR_RUN")
    say(f"      rlhf evaluate {model} {run_dir} OUR_RUN data.prompts=FILE.jsonl reward.path=RUN")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("trainer", choices=[*MODULES], help="trainer of trl")
    parser.add_argument("options", nargs="*", metavar="option=value", help="as of `rlhf ppo`")
    parser.add_argument("--scorer", default="", help="FILE.py:NAME or http://…, instead of reward")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--install", action="store_true", help="make the environment first")
    parser.add_argument("--environments", type=Path, default=DIRECTORY)
    arguments = parser.parse_intermixed_args(argv)
    try:
        if arguments.install:
            install(arguments.environments, [arguments.trainer])
            if not arguments.options:
                return 0
        return run(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not (known := expected_error(error)):
            raise
        print_error(known)
        return known.exit_code


if __name__ == "__main__":
    sys.exit(main())
