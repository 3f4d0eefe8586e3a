"""Preference pairs about drawings: responses of a tiny LLaVA that knows 32 stamps, ranked by rule.

    python benchmarks/stamp_pairs.py --deb tuxpaint-stamps-default_….deb --out DIRECTORY
    python benchmarks/stamp_pairs.py --stamps STAMPS --out DIRECTORY  # after `rlhf stamps`

Leaves in DIRECTORY: data/ with images, preferences.jsonl and held_out_preferences.jsonl (labels
without noise, other images), runs/ with the model, and summary.json, which names it.
"""

import argparse
import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from rlhf.cli.job_runner import run_command
from rlhf.config.schema import SamplingConfig
from rlhf.data.collate import prompt_batch
from rlhf.data.records import PreferenceRecord, PromptRecord, read_records
from rlhf.demo import settings
from rlhf.demo.rule_judge import is_right
from rlhf.demo.settings import Setting
from rlhf.demo.stamps.dataset import write_stamps
from rlhf.demo.untrained import build_untrained
from rlhf.evaluation.judges import generate_responses
from rlhf.models.llava import Llava
from rlhf.tracking.console import stage

# Split: images, questions about each.
SPLITS = {"sft": (4000, 4), "preference": (1000, 2), "held_out": (400, 2), "evaluation": (256, 2)}
TOWER_STEPS, TOWER_IMAGES = 500, 4000


def build(stamps: Path, out: Path, *, seed: int, noise: float) -> dict[str, Any]:
    """Make images, model and pairs; return the metrics, also written to `out/summary.json`.

    Args:
        stamps: the output of `rlhf stamps`.
        out: an empty or new directory.
        seed: of images, weights, batches, responses, sides and flipped labels.
        noise: share of the labels of preferences.jsonl flipped, in [0, 0.5).
    """
    data, untrained, started = out / "data", out / "untrained", time.perf_counter()
    setting = settings.stamps(stamps)
    write_splits(data, setting, seed)
    stage("building a tiny LLaVA and teaching its vision tower to see")
    lessons = setting.lessons(TOWER_IMAGES, seed)
    options: Any = {"steps": TOWER_STEPS, "seed": seed}
    tower = build_untrained(untrained, data / "sft.jsonl", lessons, load, **options)
    common = ["experiment=demo", "name=stamps", f"seed={seed}"]
    common += [f"output_dir={out / 'runs'}", f"data.root={data}"]
    demonstrations = f"data.demonstrations={data / 'sft.jsonl'}"
    words = ["model.train=full", f"model.path={untrained}", demonstrations]
    model, _ = run_command("sft", [], [*common, *words])
    right = accuracy(model / "model", data, seed)
    common += [f"model.path={model}"]
    summary = {
        "model": str(model),
        "tower_accuracy": tower,
        "accuracy": right,
        "pairs": collect(common, data / "preference.jsonl", data / "preferences.jsonl", noise),
        "held_out": collect(common, data / "held_out.jsonl", data / "held_out_preferences.jsonl"),
        "seconds": time.perf_counter() - started,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def write_splits(data: Path, setting: Setting, seed: int) -> None:
    """Write images, and demonstrations or prompts about them."""
    stage(f"{setting.title}, asking questions about them")
    for name, (images, questions) in SPLITS.items():
        demonstrate = name == "sft"
        setting.write_split(
            data, name, images, per_image=questions, seed=seed, demonstrate=demonstrate
        )


def accuracy(directory: Path, data: Path, seed: int) -> float:
    """Return the share of sampled responses about unseen images that are right."""
    llava, records = load(directory), read_records(data / "evaluation.jsonl", PromptRecord)
    prompts = prompt_batch(records, llava.builder, data, max_tokens=256)
    sampling = SamplingConfig(max_new_tokens=48, batch_size=256)
    texts = generate_responses(llava, directory.parent.name, prompts, sampling, seed=seed).texts
    return sum(map(is_right, records, texts)) / len(records)


def collect(options: list[str], prompts: Path, pairs: Path, noise: float = 0.0) -> dict[str, int]:
    """Write ranked pairs of responses to prompts; return how many there are of each kind."""
    overrides = [*options, f"data.prompts={prompts}", f"collect.label_noise={noise}"]
    run, _ = run_command("collect", [], overrides)
    shutil.copyfile(run / "preferences.jsonl", pairs)
    return dict(Counter(record.meta["pair"] for record in read_records(pairs, PreferenceRecord)))


def load(directory: Path) -> Llava:
    """Load a model on the CPU in float32."""
    return Llava.load(str(directory), device=torch.device("cpu"), dtype=torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--deb", type=Path)
    source.add_argument("--stamps", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.1)
    arguments = parser.parse_args()
    stamps = arguments.stamps or arguments.out / "stamps"
    if arguments.deb:
        write_stamps(arguments.deb, stamps, seed=arguments.seed, held_out=0.0)
    summary = build(stamps, arguments.out, seed=arguments.seed, noise=arguments.noise)
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
