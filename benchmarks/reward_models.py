"""Reward models side by side: what they read, what is trained, and on how many pairs.

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

from rlhf.config.schema import Config, ModelConfig, PPOConfig, RewardConfig
from rlhf.data.collate import preference_batch
from rlhf.data.records import CandidatesRecord, PreferenceRecord, read_records
from rlhf.demo.rule_judge import label_pairs
from rlhf.evaluation.reward_metrics import blindness, reward_metrics
from rlhf.evaluation.reward_scoring import BlindTest, run_blind_test, write_blank_image
from rlhf.models.llava import Llava
from rlhf.rewards.loading import build_reward
from rlhf.tracking.console import console
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.reward_trainer import RewardTrainer

RESULTS = Path(__file__).parent / "results" / "reward_models.json"
SIZES, SEEDS = (150, 600, 1200, 2400), (0, 1, 2)
HELD_OUT_IMAGES, NOISE, MAX_TOKENS = 150, 0.1, 16_384
WAYS: dict[str, dict[str, Any]] = {
    "llava_head": {"train": "head", "lr": 3e-2},
    "llava_head, state alone": {"train": "head", "lr": 3e-2, "use_logprob_feature": False},
    "llava_head + LoRA": {"train": "lora", "lr": 5e-4},
    "llava_head + LoRA, state alone": {"train": "lora", "lr": 3e-3, "use_logprob_feature": False},
    "caption_text": {"kind": "caption_text", "train": "full", "lr": 1e-3},
}
EPOCHS = {"head": 30, "lora": 4, "full": 8}
KINDS = ("right-wrong", "style", "degree")


def split(candidates: Path, seed: int) -> tuple[list[PreferenceRecord], list[PreferenceRecord]]:
    """Noisy training pairs in random order, and clean pairs of other images."""
    records = read_records(candidates, CandidatesRecord)
    images = sorted({record.image_path for record in records})
    random.Random(seed).shuffle(images)
    held_out = set(images[:HELD_OUT_IMAGES])
    rest = [record for record in records if record.image_path not in held_out]
    pairs = label_pairs(rest, noise=NOISE, seed=seed)
    random.Random(seed).shuffle(pairs)
    held = [record for record in records if record.image_path in held_out]
    return pairs, label_pairs(held, noise=0.0, seed=seed)


def train(
    way: str, candidates: Path, model: str, root: Path, size: int, seed: int
) -> tuple[BlindTest, float]:
    """One reward model, trained and judged; the seconds of the training, captions included."""
    pairs, held_out = split(candidates, seed)
    llava = Llava.load(model, device=torch.device("cpu"), dtype=torch.float32)
    torch.manual_seed(seed)
    batches = [
        preference_batch(part, llava.builder, root, max_tokens=256)
        for part in (pairs[:size], held_out)
    ]
    directory = Path(tempfile.mkdtemp())
    options = WAYS[way]
    text_model = write_text_model(directory / "text", model) if "kind" in options else ""
    reward = RewardConfig(
        **options,
        text_model=text_model,
        epochs=EPOCHS[options["train"]],
        label_smoothing=NOISE,
        batch_size=min(48, max(8, size // 25)),
    )
    config = Config(seed=seed, reward=reward, ppo=PPOConfig(microbatch_tokens=MAX_TOKENS))
    scorer = build_reward(reward, ModelConfig(), llava)
    started = time.perf_counter()
    with MetricsWriter(directory) as writer:
        pairs = batches[0], batches[1].select(torch.arange(0))
        RewardTrainer(config, scorer, *pairs, writer, directory).run()
    seconds = time.perf_counter() - started
    blank = write_blank_image(directory / "blank.png")
    judged = run_blind_test(
        scorer, held_out, batches[1], llava.builder, blank, max_tokens=MAX_TOKENS
    )
    return judged, seconds


def write_text_model(directory: Path, llava: str) -> str:
    """An untrained Llama as wide and deep as the LLaVA's, with its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(llava)
    sizes = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4}
    config = LlamaConfig(
        **sizes, vocab_size=len(tokenizer), num_hidden_layers=2, initializer_range=0.08
    )
    LlamaModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def measure(way: str, *task: Any) -> dict[str, float]:
    """The metrics of one training; memory is the most that this process held."""
    torch.set_num_threads(1)
    console().quiet = True
    judged, seconds = train(way, *task)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    metrics = reward_metrics(judged.own_images)
    found = {"accuracy": metrics.accuracy.value, "seconds": seconds, "peak_mb": peak}
    found |= {kind.name: kind.value for kind in metrics.by_kind}
    seen = [
        part.of_kind("right-wrong")
        for part in (judged.own_images, judged.shuffled_images, judged.blank_images)
    ]
    gap = blindness(*seen)
    return found | {"gap": gap.gap, "gap_low": gap.low, "log_loss": metrics.log_loss}


def measured_apart(*task: Any) -> dict[str, float]:
    """The same in a child process."""
    with get_context("fork").Pool(1) as pool:
        return dict(pool.apply(measure, task))


def table(results: dict[str, Any]) -> str:
    """Medians over the seeds as Markdown."""
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
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    arguments = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"runs": {}}
    known["device"] = f"{platform.machine()} CPU, 1 thread, torch {torch.__version__}"
    task = (arguments.candidates, arguments.model, arguments.root)
    for size in arguments.sizes if arguments.data else ():
        for way in arguments.ways:
            for seed in SEEDS:
                found = measured_apart(way, *task, size, seed)
                print(arguments.data, size, way, seed, json.dumps(found), flush=True)
                key = f"{arguments.data}/{size}/{way}"
                known["runs"].setdefault(key, {})[str(seed)] = found
                RESULTS.write_text(json.dumps(known, indent=2) + "\n")
    print(table(known["runs"]))


if __name__ == "__main__":
    main()
