"""Check the files and models of a command, before torch is imported, which takes seconds."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.cli.commands import COMMANDS, CommandFunction, import_function
from rlhf.commands.job import Job
from rlhf.config.option_types import leaves
from rlhf.config.schema import Config
from rlhf.config.validation import check_training_sampling
from rlhf.data.image_listing import IMAGE_SUFFIXES
from rlhf.data.images import load_image
from rlhf.data.input_files import data_root, input_file
from rlhf.demo.stamps.photographs import find_photographs
from rlhf.errors import DataError, UsageError
from rlhf.models.locations import locate_model
from rlhf.rewards.held_out import not_held_out, refuse_same_model
from rlhf.rewards.reward_card import RewardCard
from rlhf.tracking.activity import working

INPUT_FILES = (
    "data.demonstrations",
    "data.prompts",
    "data.preferences",
    "data.validation_preferences",
    "reward.captions",
    "evaluation.judgments",
)
FileCheck = Callable[[Config, Sequence[Path], str], None]


def load_function(command: str) -> CommandFunction:
    """Return a function that checks the inputs of a command, then imports and runs it."""

    def run(job: Job) -> dict[str, Any]:
        check_inputs(command, job.config, job.files, job.scorer, job.judge)
        with working("loading libraries"):
            function = import_function(command)
        return function(job)

    return run


def check_inputs(
    command: str, config: Config, files: Sequence[Path], scorer: str, judge: str = ""
) -> None:
    """Refuse what is missing: files first, then the reward model, then the model.

    Args:
        command: its name.
        config: its options.
        files: its words without `=`.
        scorer: what `--scorer=` names.
        judge: what `--judge=` names.

    Raises:
        UsageError: a required option is empty, or no model is at its path.
        DataError: there is no such file.
    """
    row, values = COMMANDS[command], dict(leaves(asdict(config)))
    if command == "ppo":
        check_training_sampling(config.sampling)
    if command == "evaluate" and len(files) + bool(config.evaluation.best_of) < 2:
        return  # the command says what is missing
    data_root(config)
    for option in (*row.required, *row.optional_files):
        is_directory = option == "data.prompts" and Path(values[option] or "-").is_dir()
        is_named = values[option] or option in row.required
        if option in INPUT_FILES and is_named and not is_directory:
            input_file(values[option], option)
    if "reward.path" in row.required and not scorer:
        RewardCard.read(config.reward.path)
    if row.takes_judge:
        _check_judge(config, scorer, judge)
    if check := _FILE_CHECKS.get(command):
        check(config, files, scorer)
    if "model.path" in row.required:
        locate_model(config.model.path, config.model.base)


def _check_judge(config: Config, scorer: str, judge: str) -> None:
    """Refuse a judge that is not there, is named twice, or is what training maximizes."""
    path = config.reward.judge_path
    if judge and path:
        where, fix = f"--judge=… reward.judge_path={path}", "leave one of them out"
        raise UsageError("two judges are named", where, fix)
    if judge and judge == scorer:  # an address may hold a password
        raise not_held_out("--judge=… is what --scorer=… names")
    if path and scorer:
        RewardCard.read(path, "reward.judge_path")
    elif path:
        refuse_same_model(path, config.reward.path)


def _check_models(config: Config, files: Sequence[Path], scorer: str) -> None:
    for path in files:
        locate_model(str(path), config.model.base)


def _check_models_and_images(config: Config, files: Sequence[Path], scorer: str) -> None:
    for path in files:
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.exists():
            load_image(path)
        elif not path.exists() or (path / "config.json").is_file():
            locate_model(str(path), config.model.base)


def _check_reward_model_and_file(config: Config, files: Sequence[Path], scorer: str) -> None:
    if files:
        input_file(str(files[-1]), "FILE.jsonl")
    if len(files) == 2 and not scorer:
        RewardCard.read(str(files[0]))


def _check_runs(config: Config, files: Sequence[Path], scorer: str) -> None:
    for path in files:
        if not path.exists():
            raise DataError("there is no such directory", str(path), "name runs, sweeps or both")


def _check_photographs(config: Config, files: Sequence[Path], scorer: str) -> None:
    find_photographs(config.demo)


_FILE_CHECKS: dict[str, FileCheck] = {
    "compare": _check_runs,
    "demo": _check_photographs,
    "evaluate": _check_models,
    "generate": _check_models_and_images,
    "score": _check_reward_model_and_file,
}
