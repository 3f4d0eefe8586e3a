"""The demo over seeds: does PPO improve the model with every seed, not just shorten responses?

    python benchmarks/demo_seeds.py 0 1 2 3 4 5          runs the demo with each seed, minutes each
    python benchmarks/demo_seeds.py --from runs/seeds    reads the summaries of finished runs
    python benchmarks/demo_seeds.py 0 1 2 --photographs FILE.deb       the same for demo=stamps

Prints a table and writes benchmarks/results/demo_seeds.json, or demo_stamps.json for photographs.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
COLUMNS = {
    "win_rate": "win rate",
    "wins_by_correctness": "won by correctness",
    "losses_by_correctness": "lost",
    "accuracy_before": "accuracy before",
    "accuracy_after": "after",
    "blind_accuracy_before": "with another image",
    "kl": "KL, nats",
    "length_before": "words before",
    "length_after": "after",
    "reward_model_accuracy": "reward model",
    "distinct_responses": "different responses",
}


def run(seed: int, directory: Path, photographs: Path | None) -> None:
    """Run a demo in a directory of its own."""
    words = ["demo", f"seed={seed}", f"output_dir={directory / str(seed)}"]
    if photographs:
        words += ["demo=stamps", f"demo.photographs={photographs}"]
    subprocess.run([sys.executable, "-m", "rlhf", *words], check=True)


def passes(summary: dict[str, Any]) -> bool:
    """Return whether a demo passes: it wins, by correctness, at a bounded KL."""
    return bool(
        summary["win_rate"] >= 0.75
        and summary["wins_by_correctness"] > summary["losses_by_correctness"]
        and summary["accuracy_after"] >= summary["accuracy_before"] + 0.03
        and summary["kl"] <= 10
    )


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the metrics as a Markdown table, a row for each seed."""
    lines = [f"| seed | {' | '.join(COLUMNS.values())} | bar |", "|---" * (len(COLUMNS) + 2) + "|"]
    for seed, summary in rows.items():
        cells = [f"{summary.get(name, math.nan):.3g}" for name in COLUMNS]
        lines.append(f"| {seed} | {' | '.join(cells)} | {'yes' if passes(summary) else 'no'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", nargs="*", type=int)
    parser.add_argument("--from", dest="directory", type=Path)
    parser.add_argument("--photographs", type=Path, help="a .deb or a folder, for demo=stamps")
    args = parser.parse_args()
    setting = "stamps" if args.photographs else "seeds"
    directory = args.directory or Path("runs", setting)
    for seed in args.seeds:
        run(seed, directory, args.photographs)
    summaries = sorted(directory.glob("*/demo/summary.json"))
    rows = {path.parents[1].name: json.loads(path.read_text()) for path in summaries}
    for summary in rows.values():
        summary.pop("report", None)
    device = f"{platform.machine()} CPU, torch {torch.__version__}"
    results = json.dumps({"device": device, "seeds": rows}, indent=2)
    (RESULTS / f"demo_{setting}.json").write_text(results + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
