"""Accuracy of reward models by kind, trained parameters and number of pairs.

    python benchmarks/reward_models.py shapes RUN/candidates.jsonl MODEL DATA
    python benchmarks/reward_models.py stamps RUN/candidates.jsonl MODEL DATA
    python benchmarks/reward_models.py            prints the table of what was measured

RUN/candidates.jsonl, MODEL and DATA (the directory of the images) are what `rlhf demo` or
benchmarks/stamp_pairs.py left. Training labels are wrong in one of ten, held-out labels clean; no
image is on both sides. Each training is a process of its own. Adds what it measures to
benchmarks/results/reward_models.json.
"""

import argparse
import json
import platform
import random
import resource
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaModel

from rlhf.config.schema import RewardConfig
from rlhf.data.collate import preference_batch
from rlhf.data.records import CandidatesRecord, PreferenceRecord, read_records
from rlhf.demo.rule_judge import label_pairs
from rlhf.evaluation.prompt_changes import EvaluatedPairs, evaluate_pairs, write_blank_image
from rlhf.evaluation.prompt_tests import BLINDNESS, prompt_test_metrics
from rlhf.evaluation.reward_metrics import reward_metrics
from rlhf.evaluation.scored_pairs import ChangedPairs
from rlhf.models.llava import Llava
from rlhf.rewards.loading import build_reward_model
from rlhf.tracking.console import console
from rlhf.training.reward_trainer import RewardTrainer

RESULTS = Path(__file__).parent / "results" / "reward_models.json"
SIZES, SEEDS = (150, 600, 1200, 2400), (0, 1, 2)
HELD_OUT_IMAGES, NOISE, MAX_TOKENS = 150, 0.1, 16_384
REWARD_MODELS: dict[str, dict[str, Any]] = {
    "llava_head": {"train": "head", "lr": 3e-2},
    "llava_head, state alone": {"train": "head", "lr": 3e-2, "use_logprob_feature": False},
    "llava_head + LoRA": {"train": "lora", "lr": 5e-4},
    "llava_head + LoRA, state alone": {"train": "lora", "lr": 3e-3, "use_logprob_feature": False},
    "caption_text": {"kind": "caption_text", "train": "full", "lr": 1e-3},
}
EPOCHS = {"head": 30, "lora": 4, "full": 8}
KINDS = ("right-wrong", "style", "degree")


def split(candidates: Path, seed: int) -> tuple[list[PreferenceRecord], list[PreferenceRecord]]:
    """Return noisy training pairs in random order, and clean pairs of other images."""
    records = read_records(candidates, CandidatesRecord)
    images = sorted({record.image_path for record in records})
    random.Random(seed).shuffle(images)
    held_out_images = set(images[:HELD_OUT_IMAGES])
    training = [record for record in records if record.image_path not in held_out_images]
    pairs = label_pairs(training, noise=NOISE, seed=seed)
    random.Random(seed).shuffle(pairs)
    held_out = [record for record in records if record.image_path in held_out_images]
    return pairs, label_pairs(held_out, noise=0.0, seed=seed)


def train(
    reward_model: str, candidates: Path, model: str, root: Path, size: int, seed: int
) -> tuple[EvaluatedPairs, float]:
    """Train and test a reward model; also return the seconds of training, captions included."""
    pairs, held_out = split(candidates, seed)
    llava = Llava.load(model, device=torch.device("cpu"), dtype=torch.float32)
    torch.manual_seed(seed)
    batches = [
        preference_batch(part, llava.builder, root, max_tokens=256)
        for part in (pairs[:size], held_out)
    ]
    directory = Path(tempfile.mkdtemp())
    options = REWARD_MODELS[reward_model]
    text_model = write_text_model(directory / "text", model) if "kind" in options else ""
    reward = RewardConfig(
        **options,
        text_model=text_model,
        epochs=EPOCHS[options["train"]],
        label_smoothing=NOISE,
        batch_size=min(48, max(8, size // 25)),
    )
    scorer = build_reward_model(llava, reward)
    started = time.perf_counter()
    options = {"max_tokens": MAX_TOKENS, "seed": seed, "run_dir": directory}
    RewardTrainer(scorer, batches[0], reward, **options).run()
    seconds = time.perf_counter() - started
    blank = write_blank_image(directory / "blank.png")
    evaluated = evaluate_pairs(scorer, held_out, batches[1], blank, max_tokens=MAX_TOKENS)
    return evaluated, seconds


def write_text_model(directory: Path, llava: str) -> str:
    """Write an untrained Llama of the LLaVA's width and depth, with its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(llava)
    sizes = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4}
    config = LlamaConfig(
        **sizes, vocab_size=len(tokenizer), num_hidden_layers=2, initializer_range=0.08
    )
    LlamaModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def measure(reward_model: str, *task: Any) -> dict[str, float]:
    """Return the metrics of one training; peak_mb is the peak memory of this process."""
    torch.set_num_threads(1)
    console().quiet = True
    evaluated, seconds = train(reward_model, *task)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    metrics = reward_metrics(evaluated.scored)
    values = {"accuracy": metrics.accuracy.value, "seconds": seconds, "peak_mb": peak}
    values |= {kind.name: kind.value for kind in metrics.by_kind}
    own, *changed = [x.of_kind("right-wrong") for x in evaluated.tests[BLINDNESS].all]
    gap = prompt_test_metrics(BLINDNESS, ChangedPairs(own, tuple(changed)))
    return values | {"gap": gap.gap, "gap_low": gap.low, "log_loss": metrics.log_loss}


def measure_in_child(*task: Any) -> dict[str, float]:
    """Run `measure` in a child process."""
    with get_context("fork").Pool(1) as pool:
        return dict(pool.apply(measure, task))


def table(results: dict[str, Any]) -> str:
    """Return the medians over seeds as a Markdown table."""
    names = ("accuracy", *KINDS, "gap", "seconds", "peak_mb")
    lines = [f"| data | pairs | reward model | {' | '.join(names)} |", "|---" * 10 + "|"]
    for key, runs in results.items():
        middle = [median(run[name] for run in runs.values()) for name in names]
        cells = [f"{100 * x:.1f} %" for x in middle[:4]]
        cells += [f"{100 * middle[4]:+.1f}", f"{middle[5]:.0f}", f"{middle[6]:.0f}"]
        lines.append(f"| {' | '.join([*key.split('/'), *cells])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?")
    parser.add_argument("candidates", nargs="?", type=Path)
    parser.add_argument("model", nargs="?")
    parser.add_argument("root", nargs="?", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--reward-models", nargs="+", default=list(REWARD_MODELS))
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"runs": {}}
    results["device"] = f"{platform.machine()} CPU, 1 thread, torch {torch.__version__}"
    task = (arguments.candidates, arguments.model, arguments.root)
    for size in arguments.sizes if arguments.data else ():
        for reward_model in arguments.reward_models:
            for seed in SEEDS:
                metrics = measure_in_child(reward_model, *task, size, seed)
                print(arguments.data, size, reward_model, seed, json.dumps(metrics), flush=True)
                key = f"{arguments.data}/{size}/{reward_model}"
                results["runs"].setdefault(key, {})[str(seed)] = metrics
                RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results["runs"]))


if __name__ == "__main__":
    main()
