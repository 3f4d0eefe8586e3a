"""Do the health warnings see a collapse, and are they silent where there is none?

    python benchmarks/divergence.py RUNS --seeds 10 20     RUNS: the directory a `rlhf demo` left
    python benchmarks/divergence.py RUNS --replay          the same runs by the present thresholds

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
# What a collapse may rightly be called: the policy went too far, or lost its variety.
CAUSES = {"KL explosion", "approximate KL", "clipping", "entropy collapse", "same responses"}


def models_of(demo: Path) -> list[str]:
    """The options of a demo's PPO run that name its models and data."""
    found = sorted(demo.glob("demo/*/adapter"), reverse=True)
    if not found:
        raise SystemExit(f"no PPO run in {demo}/demo: `rlhf demo` leaves one")
    config = OmegaConf.load(found[0].parent / "config.yaml")
    names = ("model.path", "reward.path", "data.prompts", "data.root")
    return [f"{name}={demo.parent / OmegaConf.select(config, name)}" for name in names]


def run(demo: Path, kind: str, seed: int) -> dict[str, Any]:
    """Warnings of one PPO run: their iterations and names."""
    words = ["ppo", "experiment=demo", f"seed={seed}", f"name={kind}", *models_of(demo)]
    command = [sys.executable, "-m", "rlhf", *words, *KINDS[kind], f"output_dir={demo}", "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    row: dict[str, Any] = {"kind": kind, "seed": seed, "exit": done.returncode}
    if done.returncode:
        return {**row, "warnings": [], "error": done.stderr.strip().split("\n")[:3]}
    found = json.loads(done.stdout.strip().split("\n")[-1])
    return {**row, "warnings": found["warnings"]}


def replay(demo: Path, kind: str, seed: int) -> dict[str, Any]:
    """The same of a run that is there: its metrics go through the monitor again."""
    runs = sorted((demo / kind).iterdir(), reverse=True)
    found = next(x for x in runs if OmegaConf.load(x / "config.yaml").seed == seed)
    health, warnings = HealthMonitor(WARMUP), []
    for line in (found / "metrics.jsonl").read_text().splitlines():
        metrics = {k: x for k, x in json.loads(line).items() if x is not None}
        step = metrics.pop("step") + 1
        warnings += [(step, warning.name) for warning in health.update(step, metrics)]
    return {"kind": kind, "seed": seed, "exit": 0, "warnings": warnings}


def right(row: dict[str, Any]) -> bool:
    """Whether what was warned of is what happened: nothing, or a collapse."""
    names = {name for _, name in row["warnings"]}
    return not names if row["kind"] == "default" else bool(names & CAUSES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("demo", type=Path, help="the folder that holds demo/")
    parser.add_argument("--seeds", type=int, nargs=2, default=(10, 20), metavar=("FROM", "TO"))
    parser.add_argument("--together", type=int, default=2, help="runs at a time")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--replay", action="store_true", help="judge runs that are there")
    given = parser.parse_args()
    demo, seeds = given.demo.resolve(), range(*given.seeds)
    orders = [(kind, seed) for kind in KINDS for seed in seeds]
    found = replay if given.replay else run
    with ThreadPoolExecutor(given.together) as pool:
        rows = list(pool.map(lambda order: found(demo, *order), orders))
    sheet = Table("run", "seed", "right", "warnings (iteration)")
    for row in rows:
        said = ", ".join(f"{name} ({step})" for step, name in row["warnings"])
        sheet.add_row(
            row["kind"], str(row["seed"]), str(right(row)), said or str(row.get("error", ""))
        )
    Console().print(sheet)
    good = {kind: sum(right(row) for row in rows if row["kind"] == kind) for kind in KINDS}
    metrics = {"seeds": list(seeds), "right": good, "rows": rows}
    given.output.write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    main()
