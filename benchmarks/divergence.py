"""Do the health warnings detect a collapse, and are there none without one?

    python benchmarks/divergence.py RUNS --seeds 10 20     RUNS: the directory a `rlhf demo` left
    python benchmarks/divergence.py RUNS --replay          finished runs, current thresholds

Twice for each seed on the models of one demo: its own PPO, and one that collapses (learning rate
x 100, no KL penalty) for 15 iterations after the critic's warm-up. The thresholds of
`rlhf.ppo.health` were chosen on seeds 0 to 9. Writes results/divergence.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from rlhf.ppo.health import HealthMonitor

RESULTS = Path(__file__).parent / "results" / "divergence.json"
WARMUP = 5  # iterations that move the critic alone
COLLAPSING = ("ppo.lr=5e-2", "ppo.kl_coef=0", "ppo.lr_schedule=constant")
KINDS: dict[str, Sequence[str]] = {
    "default": (),
    "collapsing": (*COLLAPSING, f"ppo.iterations={WARMUP + 15}"),
}
# Warnings that name a collapse: the policy moved too far, or its responses became alike.
CAUSES = {"KL explosion", "approximate KL", "clipping", "entropy collapse", "same responses"}


def models_of(demo: Path) -> list[str]:
    """Return the options of a demo's PPO run that name its models and data."""
    adapters = sorted(demo.glob("demo/*/adapter"), reverse=True)
    if not adapters:
        raise SystemExit(f"no PPO run in {demo}/demo: `rlhf demo` leaves one")
    config = OmegaConf.load(adapters[0].parent / "config.yaml")
    names = ("model.path", "reward.path", "data.prompts", "data.root")
    return [f"{name}={demo.parent / OmegaConf.select(config, name)}" for name in names]


def run(demo: Path, kind: str, seed: int) -> dict[str, Any]:
    """Run PPO; return the iterations and names of its warnings."""
    arguments = ["ppo", "experiment=demo", f"seed={seed}", f"name={kind}", *models_of(demo)]
    command = [
        sys.executable,
        "-m",
        "rlhf",
        *arguments,
        *KINDS[kind],
        f"output_dir={demo}",
        "--json",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    row: dict[str, Any] = {"kind": kind, "seed": seed, "exit": done.returncode}
    if done.returncode:
        return {**row, "warnings": [], "error": done.stderr.strip().split("\n")[:3]}
    summary = json.loads(done.stdout.strip().split("\n")[-1])
    return {**row, "warnings": summary["warnings"]}


def replay(demo: Path, kind: str, seed: int) -> dict[str, Any]:
    """Pass the metrics of a finished run through the monitor; return its warnings."""
    runs = sorted((demo / kind).iterdir(), reverse=True)
    run_dir = next(x for x in runs if OmegaConf.load(x / "config.yaml").seed == seed)
    health, warnings = HealthMonitor(WARMUP), []
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        metrics = {k: x for k, x in json.loads(line).items() if x is not None}
        step = metrics.pop("step") + 1
        warnings += [(step, warning.name) for warning in health.update(step, metrics)]
    return {"kind": kind, "seed": seed, "exit": 0, "warnings": warnings}


def is_right(row: dict[str, Any]) -> bool:
    """Return whether the warnings are right: none by default, a cause where it collapses."""
    names = {name for _, name in row["warnings"]}
    return not names if row["kind"] == "default" else bool(names & CAUSES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("demo", type=Path, help="the directory that holds demo/")
    parser.add_argument("--seeds", type=int, nargs=2, default=(10, 20), metavar=("FROM", "TO"))
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--replay", action="store_true", help="read finished runs")
    arguments = parser.parse_args()
    demo, seeds = arguments.demo.resolve(), range(*arguments.seeds)
    orders = [(kind, seed) for kind in KINDS for seed in seeds]
    function = replay if arguments.replay else run
    with ThreadPoolExecutor(arguments.parallel) as pool:
        rows = list(pool.map(lambda order: function(demo, *order), orders))
    table = Table("run", "seed", "right", "warnings (iteration)")
    for row in rows:
        warnings = ", ".join(f"{name} ({step})" for step, name in row["warnings"])
        table.add_row(
            row["kind"], str(row["seed"]), str(is_right(row)), warnings or str(row.get("error", ""))
        )
    Console().print(table)
    num_right = {kind: sum(is_right(row) for row in rows if row["kind"] == kind) for kind in KINDS}
    metrics = {"seeds": list(seeds), "right": num_right, "rows": rows}
    arguments.output.write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    main()
