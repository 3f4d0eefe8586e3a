"""`rlhf demo`: the whole loop on images it makes, as a sequence of the other commands."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from rlhf.commands.command_line import command_line, without_resume
from rlhf.commands.job import Job
from rlhf.commands.model_setup import load_model
from rlhf.config.schema import Config
from rlhf.demo.settings import SHAPES, stamps
from rlhf.demo.stamps.photographs import find_photographs, unpack_photographs
from rlhf.demo.stamps.scenes import NAMES, stamp_path
from rlhf.demo.untrained import build_untrained
from rlhf.models.locations import locate_model
from rlhf.storage.atomic import replace_text
from rlhf.storage.hashing import file_hash
from rlhf.storage.json_files import JsonObject, read_json, read_json_or
from rlhf.storage.run_directory import json_text
from rlhf.tracking.console import say, stage, table

COMPARISON_ROWS = (  # label, metric before PPO, metric after it
    ("accuracy of the responses", "accuracy_before", "accuracy_after"),
    ("accuracy with another image", "blind_accuracy_before", "blind_accuracy_after"),
    ("score by the rule", "rule_before", "rule_after"),
    ("score by the reward model", "reward_before", "reward_after"),
    ("words per response", "length_before", "length_after"),
    ("different responses", "distinct_responses_before", "distinct_responses"),
)


def demo(job: Job) -> dict[str, Any]:
    """Make images, build and train a tiny LLaVA, rank its responses, run PPO, compare.

    Each stage after the images is another command of rlhf, run on files.

    Returns:
        The metrics of the comparison, the accuracy of the reward model and the seconds taken.
    """
    started = time.perf_counter()
    data, model = _sft_model(job)
    shared = [*_shared_overrides(job), f"data.root={data}"]

    def run(command: str, *overrides: str, files: tuple[Path, ...] = ()) -> tuple[Path, Any]:
        return _run_stage(job, command, [*shared, *overrides], files)

    prompts = f"data.prompts={data / 'preference.jsonl'}"
    collected, _ = run("collect", f"model.path={model}", prompts)
    preferences = f"data.preferences={collected / 'preferences.jsonl'}"
    reward_run, reward_metrics = run("reward", f"model.path={model}", preferences)
    ppo_run, _ = run("ppo", f"model.path={model}", f"reward.path={reward_run}", prompts)
    evaluation_run, metrics = run(
        "evaluate",
        f"reward.path={reward_run}",
        f"data.prompts={data / 'evaluation.jsonl'}",
        files=(model, ppo_run),
    )
    accuracy = reward_metrics["reward_model_accuracy"]
    seconds = time.perf_counter() - started
    summary = {**metrics, "reward_model_accuracy": accuracy, "seconds": seconds}
    (data.parents[1] / "summary.json").write_text(json_text(summary, indent=2) + "\n")
    _print_comparison(summary, evaluation_run, ppo_run)
    words = [f"model.path={model}", "data.prompts=FOLDER"]
    say(f"your own images: {command_line('collect', words)} …")
    return summary


def _shared_overrides(job: Job) -> list[str]:
    """Return the overrides of every stage: this call's, after experiment=demo if none is chosen.

    If the demo is resumed, so is the stage that did not end.
    """
    chosen = any(word.startswith("experiment=") for word in job.overrides)
    resume = ["resume=auto"] if job.config.resume else []
    return [*([] if chosen else ["experiment=demo"]), *without_resume(job.overrides), *resume]


def _run_stage(
    job: Job, command: str, overrides: Sequence[str], files: Sequence[Path]
) -> tuple[Path, Mapping[str, Any]]:
    """Run a stage and record its directory; a resumed demo takes those that ended as they are.

    Returns:
        The run directory of the stage, and its metrics.
    """
    record = job.run_dir / "stages.json"
    ended = read_json_or(record, JsonObject())
    if command in ended:
        directory = Path(str(ended[command]))
        say(f"using {directory}, made before by rlhf {command}")
        return directory, read_json(directory / "summary.json", JsonObject)
    directory, metrics = job.run_command(command, [str(file) for file in files], [*overrides])
    replace_text(record, json.dumps({**ended, command: str(directory)}))
    return directory, metrics


def _sft_model(job: Job) -> tuple[Path, Path]:
    """Return the data directory and the run of `rlhf sft`, made once for each seed and options."""
    photographs = find_photographs(job.config.demo)
    directory = job.run_dir.parent / _base_name(job.config, photographs)
    data, marker = directory / "data", directory / "supervised.json"
    if marker.is_file():
        model = Path(json.loads(marker.read_text())["run"])
        if (model / "model" / "config.json").is_file():
            say(f"using the model built before, {model}")
            return data, model
    _build(job, directory, photographs)
    model, _ = job.run_command(
        "sft",
        [],
        [
            *_shared_overrides(job),
            "model.train=full",
            f"model.path={directory / 'untrained'}",
            f"data.demonstrations={data / 'sft.jsonl'}",
        ],
    )
    marker.write_text(json.dumps({"run": str(model)}))
    return data, model


def _build(job: Job, directory: Path, photographs: Path | None) -> None:
    """Write images and questions, and the LLaVA before SFT, which has learned to see."""
    demo, seed, data, setting = job.config.demo, job.config.seed, directory / "data", SHAPES
    if photographs:
        setting = stamps(unpack_photographs(photographs, directory / "stamps"))
    stage(f"{setting.title}, and writing questions about them")
    setting.write_split(data, "sft", demo.sft_images, per_image=4, seed=seed, demonstrate=True)
    setting.write_split(data, "preference", demo.preference_images, per_image=2, seed=seed)
    setting.write_split(data, "evaluation", demo.evaluation_images, per_image=2, seed=seed)
    stage("building a tiny LLaVA and training its vision tower")
    build_untrained(
        directory / "untrained",
        data / "sft.jsonl",
        setting.lessons(demo.sft_images, seed),
        lambda path: load_model(job.config, locate_model(str(path)), trains_fully=True),
        steps=demo.tower_steps,
        seed=seed,
    )


def _base_name(config: Config, photographs: Path | None) -> str:
    """Return the name of the directory of data and model: by seed, options and photographs."""
    counts = asdict(config.demo)
    del counts["kind"], counts["photographs"]
    key: list[Any] = [config.seed, counts, config.sft]
    if photographs:
        files = [stamp_path(photographs, name) for name in NAMES]
        key += map(file_hash, files if photographs.is_dir() else [photographs])
    return f"base-{config.seed}-{hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:8]}"


def _print_comparison(summary: dict[str, Any], evaluation_run: Path, ppo_run: Path) -> None:
    rows = [(label, summary[before], summary[after]) for label, before, after in COMPARISON_ROWS]
    table("before and after PPO, on images not used in training", ("", "before", "after"), rows)
    say(
        f"win rate {summary['win_rate']:.1%}: {summary['wins_by_correctness']:.0f} won and "
        f"{summary['losses_by_correctness']:.0f} lost by being right, "
        f"{summary['wins_by_style']:.0f} won and {summary['losses_by_style']:.0f} lost by style; "
        f"KL {summary['kl']:.2f} nats; reward model {summary['reward_model_accuracy']:.1%}; "
        f"{summary['seconds']:.0f} s"
    )
    say(f"report: {evaluation_run / 'report.html'}\ncurves: tensorboard --logdir {ppo_run}")
