"""`rlhf demo`: the whole loop on drawn images, as a sequence of the other commands."""

import hashlib
import json
import time
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from rlhf.commands.command_line import command_line
from rlhf.commands.job import Job
from rlhf.commands.model_setup import load_model
from rlhf.data.records import DemonstrationRecord, read_records
from rlhf.demo.questions import write_split
from rlhf.demo.scenes import sample_scene
from rlhf.demo.tiny_llava import build_tiny_llava, train_tower_on_scenes
from rlhf.models.locations import locate_model
from rlhf.storage.run_directory import json_text
from rlhf.tracking.console import say, stage, table, track

COMPARISON_ROWS = (  # label, metric before PPO, metric after it
    ("accuracy of the responses", "accuracy_before", "accuracy_after"),
    ("accuracy with another image", "blind_accuracy_before", "blind_accuracy_after"),
    ("score by the rule", "rule_before", "rule_after"),
    ("score by the reward model", "reward_before", "reward_after"),
    ("words per response", "length_before", "length_after"),
    ("different responses", "distinct_responses_before", "distinct_responses"),
)


def demo(job: Job) -> dict[str, Any]:
    """Draw images, build and train a tiny LLaVA, rank its responses, run PPO, compare.

    Each stage after drawing is another command of rlhf, run on files.

    Returns:
        The metrics of the comparison, the accuracy of the reward model and the seconds taken.
    """
    started = time.perf_counter()
    data, model = _sft_model(job)
    shared = [*_shared_overrides(job), f"data.root={data}"]

    def run(command: str, *overrides: str, files: tuple[Path, ...] = ()) -> tuple[Path, Any]:
        return job.run_command(command, list(map(str, files)), [*shared, *overrides])

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
    """Return the overrides of every stage: this call's, after experiment=demo if none is chosen."""
    chosen = any(word.startswith("experiment=") for word in job.overrides)
    return [*([] if chosen else ["experiment=demo"]), *job.overrides]


def _sft_model(job: Job) -> tuple[Path, Path]:
    """Return the data directory and the run of `rlhf sft`, made once for each seed and options."""
    config = job.config
    key = msgspec.json.encode([config.seed, config.demo, config.sft])
    name = f"base-{config.seed}-{hashlib.sha256(key).hexdigest()[:8]}"
    directory = job.run_dir.parent / name
    data, marker = directory / "data", directory / "supervised.json"
    if marker.is_file():
        model = Path(json.loads(marker.read_text())["run"])
        if (model / "model" / "config.json").is_file():
            say(f"using the model built before, {model}")
            return data, model
    stage("drawing images of coloured shapes, and writing questions about them")
    demo, seed = config.demo, config.seed
    write_split(data, "sft", demo.sft_images, per_image=4, seed=seed, demonstrate=True)
    write_split(data, "preference", demo.preference_images, per_image=2, seed=seed)
    write_split(data, "evaluation", demo.evaluation_images, per_image=2, seed=seed)
    stage("building a tiny LLaVA and training its vision tower")
    _build_untrained(job, data, directory / "untrained")
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


def _build_untrained(job: Job, data: Path, directory: Path) -> None:
    """Write the LLaVA before SFT; its vision tower is trained to name shapes and colours."""
    seed, steps = job.config.seed, job.config.demo.tower_steps
    records = read_records(data / "sft.jsonl", DemonstrationRecord)
    texts = [text for record in records for text in (record.instruction, record.response)]
    build_tiny_llava(directory, texts, seed=seed)
    llava = load_model(job.config, locate_model(str(directory)), trains_fully=True)
    llava.model.requires_grad_(True)
    random = Random(f"tower/{seed}")
    scenes = [sample_scene(random) for _ in range(job.config.demo.sft_images)]
    with track("vision tower", steps) as progress:
        accuracy = train_tower_on_scenes(
            llava.model,
            llava.processor,
            scenes,
            steps=steps,
            seed=seed,
            on_step=lambda done, total, loss: progress.advance(1, loss=loss),
        )
    say(f"the vision tower names {accuracy:.1%} of the quarters of its images")
    llava.save(directory)


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
