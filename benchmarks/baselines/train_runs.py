"""Checks a training and starts it in the environment of its trainer. Needs no trl."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from baselines.environments import RELEASES, ROOT, install_command, interpreter_of
from baselines.runs import BENCHMARKS
from baselines.train_checks import check_model, checked_options
from baselines.train_job import SCORED, TrainJob
from baselines.train_rows import read_pairs
from rlhf.cli.hydra_compose import compose_options
from rlhf.cli.overrides import override_name
from rlhf.config.schema import Config
from rlhf.config.validation import load_config
from rlhf.data.input_files import read_prompts
from rlhf.errors import UsageError, as_usage_error
from rlhf.models.locations import ModelLocation, locate_model
from rlhf.ppo.metrics import SUMMARY_METRICS
from rlhf.ppo.options import check_training_options
from rlhf.rewards.external.loader import load_scorer
from rlhf.rewards.reward_card import RewardCard
from rlhf.storage.run_directory import remove_if_empty
from rlhf.tracking.reader import read_metrics


def compose(trainer: str, words: Sequence[str]) -> Config:
    """Return the options of `rlhf ppo` with these words; the run is named after the trainer.

    Raises:
        UsageError: an option does not exist, its value is not valid, or trl cannot do it.
    """
    names = [override_name(word) for word in words]
    if "resume" in names:
        what, fix = "a training of trl cannot be resumed here", "leave resume= out: start it anew"
        raise UsageError(what, words[names.index("resume")], fix)
    named = [] if "name" in names else [f"name={trainer}"]
    config = load_config(compose_options("ppo", [*named, *words]))
    check_training_options(config.ppo, config.sampling)
    return checked_options(trainer, config)


def check_inputs(trainer: str, config: Config, scorer: str) -> ModelLocation:
    """Check model, files and reward before weights are read; return where the model is.

    Args:
        trainer: key of `train_job.MODULES`.
        config: the options.
        scorer: what `--scorer=` names; empty for none.

    Raises:
        UsageError: one is not named or of the wrong kind.
        DataError: a file, a record or an image cannot be read.
    """
    location = locate_model(config.model.path, config.model.base)
    fix = "name a LLaVA as model.path"
    with as_usage_error("the model's configuration cannot be read", location.base, fix):
        model_type = AutoConfig.from_pretrained(location.base).model_type
    check_model(trainer, location, model_type)
    if trainer == "trl_dpo":
        read_pairs(config)
    if trainer in SCORED or config.data.prompts:
        read_prompts(config)
    if scorer:
        load_scorer(scorer, None, config.scorer)
    elif trainer in SCORED or config.reward.path:
        RewardCard.read(config.reward.path)
    return location


def interpreter(trainer: str, environments: Path) -> Path:
    """Return the Python of a trainer's environment.

    Raises:
        UsageError: there is none.
    """
    python = interpreter_of(trainer, environments)
    if python is None:
        what = f"{RELEASES[trainer]}, which {trainer} needs, is not installed"
        raise UsageError(
            what, str(environments), f"make its environment: {install_command(trainer)}"
        )
    return python


def run_child(python: Path, run_dir: Path) -> int:
    """Train in a process of its own, which prints for itself; return its exit code.

    A run that wrote no metrics is removed.
    """
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{BENCHMARKS}"}
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONWARNINGS": "ignore::FutureWarning"}
    command = [str(python), "-m", "baselines.train", str(run_dir)]
    code = subprocess.run(command, env={**os.environ, **paths, **quiet}).returncode
    metrics = run_dir / "metrics.jsonl"
    if code and not (metrics.exists() and metrics.stat().st_size):
        shutil.rmtree(run_dir)
        remove_if_empty(run_dir.parent)
    return code


def summary(job: TrainJob) -> dict[str, Any]:
    """Return what summary.json holds: the trainer, its release, and the last metrics."""
    curves = read_metrics(job.run_dir)
    names = (*SUMMARY_METRICS, "reward/loss", "reward/accuracy")
    last = {name: curves[name][-1][1] for name in names if name in curves}
    steps = len(curves["episode"])
    return {"command": job.trainer, "release": RELEASES[job.trainer], "iterations": steps, **last}
