"""What a reward model learns of few pairs, by learning rate: the choice behind `author_150`.

    python benchmarks/few_pairs.py                     minutes on a CPU
    python benchmarks/few_pairs.py --rates 1 10 --pairs 150

The supervised models and the pairs are those of the frontier study, drawn shapes and photographs.
Pairs of some images are learned, three seeds each, with the options of experiment=author_150 and
multiples of its learning rate; 600 pairs of other images judge. A rate of 0 trains nothing: that
is the start. Writes results/few_pairs.json.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from baselines.environments import ROOT
from baselines.learning_runs import child_output
from baselines.learning_task import StartingPoint
from frontier_study.tasks import TASKS

from rlhf.cli.hydra_compose import compose_options
from rlhf.config.validation import load_config
from rlhf.data.records import PreferenceRecord, read_records, write_records

RESULTS = Path(__file__).parent / "results" / "few_pairs.json"
RUNS = ROOT / "runs" / "few_pairs"
STARTS = ROOT / "runs" / "frontier" / "start"
TASK_NAMES, SEEDS, HELD_OUT = ("demo", "stamps"), (0, 1, 2), 600
RATES, PAIRS = (0.0, 1.0, 3.0, 10.0, 30.0), (50, 100, 150)


def split(start: StartingPoint, pairs: int, seed: int) -> tuple[list[Any], list[Any]]:
    """Return pairs to learn from and 600 to judge by, of other images."""
    records = read_records(Path(start.preferences), PreferenceRecord)
    images = sorted({record.image_path for record in records})
    Random(seed).shuffle(images)
    place = {image: number for number, image in enumerate(images)}
    order = sorted(records, key=lambda record: place[record.image_path])
    learned, held_out = order[:pairs], order[::-1][:HELD_OUT]
    assert not {x.image_path for x in learned} & {x.image_path for x in held_out}
    return learned, held_out


def accuracy(start: StartingPoint, task: str, pairs: int, rate: float, seed: int) -> float:
    """Train a reward model; return its accuracy on the held-out pairs."""
    directory = RUNS / f"{task}-{pairs}-{seed}"
    directory.mkdir(parents=True, exist_ok=True)
    names = ("pairs", "held_out")
    for name, records in zip(names, split(start, pairs, seed), strict=True):
        write_records(directory / f"{name}.jsonl", records)
    lr = load_config(compose_options("reward", ["experiment=author_150"])).reward.lr
    words = ["experiment=author_150", f"seed={seed}", f"model.path={start.model}", "--json"]
    words += [f"data.root={start.data}", f"output_dir={directory}", "reward.cv_folds=0"]
    words += ["reward.learning_curve=false"]
    words += [f"data.preferences={directory}/pairs.jsonl"]
    words += [f"data.validation_preferences={directory}/held_out.jsonl"]
    words += [f"reward.lr={lr * rate}"] if rate else ["reward.lr=1e-12"]
    output = child_output([sys.executable, "-m", "rlhf", "reward", *words])
    return float(json.loads(output)["reward_model_accuracy"])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASK_NAMES, default=TASK_NAMES)
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="multiples")
    parser.add_argument("--pairs", nargs="+", type=int, default=PAIRS)
    arguments = parser.parse_args(argv)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for task in arguments.tasks:
        start = TASKS[task].start(STARTS)
        for pairs in arguments.pairs:
            for rate in arguments.rates:
                key = f"{task}/{pairs}/{rate:g}"
                if key not in found:
                    found[key] = [accuracy(start, task, pairs, rate, seed) for seed in SEEDS]
                    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
                print(key, f"{fmean(found[key]):.3f}", found[key], flush=True)


if __name__ == "__main__":
    main()
