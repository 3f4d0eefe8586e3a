"""LLaVA-1.5-7B on a CPU, by the commands themselves: memory and seconds of each phase.

    python benchmarks/llava_7b_cpu.py                       what has no result yet; an hour or more
    python benchmarks/llava_7b_cpu.py --storage nf4 --stages ppo
    python benchmarks/llava_7b_cpu.py --tiny                a check of the script, a minute

The model has the published configuration and random weights, so that it takes the memory and time
of a trained one and says nothing. Eight prompts, responses of 16 tokens. `rlhf collect`, `reward`,
`ppo` (one iteration), `evaluate` and, in bfloat16, `export` with merge run one after another in
RUNS/llava_7b_cpu; a stage that has ended is not run again. Prints a table beside the plan of
`rlhf plan` and writes results/llava_7b_cpu.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from random_llava import images, write_model
from rich.console import Console
from rich.table import Table

from rlhf.config.schema import GIB, Config
from rlhf.config.validation import load_config
from rlhf.data.records import (
    CandidatesRecord,
    PreferenceRecord,
    PromptRecord,
    read_records,
    write_records,
)
from rlhf.planning.memory import estimate_memory
from rlhf.planning.model_dims import read_dims
from rlhf.planning.workload import Stage
from rlhf.planning.workload_options import workload_of

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "llava_7b_cpu.json"
PROMPTS, TOKENS = 8, 16
STORAGE = {"nf4": "nf4", "bf16": "none"}
STAGES = ("collect", "reward", "ppo", "evaluate", "export")
SHARED = ("device=cpu", "dtype=bfloat16", f"sampling.max_new_tokens={TOKENS}")
PLANNED: dict[str, dict[str, str]] = {  # stage: phase that is measured to phase of the plan
    "reward": {"scoring": "scoring", "update": "update"},
    "ppo": {"decode": "rollout", "scoring": "scoring", "update": "update"},
}


@dataclass(frozen=True)
class Study:
    """Where one storage of the model is run.

    Attributes:
        directory: of model, data and runs.
        storage: nf4 or bf16.
    """

    directory: Path
    storage: str

    @property
    def runs(self) -> Path:
        """The directory of the runs of this storage."""
        return self.directory / self.storage

    @property
    def options(self) -> list[str]:
        """The options of every stage."""
        model = f"model.path={self.directory / 'model'}"
        quantized = f"model.quantization={STORAGE[self.storage]}"
        return [*SHARED, model, quantized, f"data.root={self.directory}", f"output_dir={self.runs}"]

    def run(self, stage: str) -> Path:
        """The newest run directory of a stage."""
        return max((self.runs / stage).glob("0*"))

    def words(self, stage: str) -> list[str]:
        """The command line of a stage."""
        prompts = f"data.prompts={self.directory / 'prompts.jsonl'}"
        reward = "" if stage in ("collect", "reward") else f"reward.path={self.run('reward')}"
        own = {
            "collect": [prompts, "collect.responses_per_prompt=2"],
            "reward": [
                f"data.preferences={self.runs / 'preferences.jsonl'}",
                "reward.batch_size=4",
            ],
            "ppo": [prompts, reward, *PPO],
            "evaluate": [prompts, reward],
            "export": [],
        }[stage]
        if stage == "export":
            return [
                "export",
                str(self.run("ppo")),
                "export.merge=true",
                f"output={self.runs}/merged",
            ]
        files = [str(self.directory / "model"), str(self.run("ppo"))] if stage == "evaluate" else []
        return [stage, *files, *self.options, f"name={stage}", *own]


PPO = ("ppo.iterations=1", "ppo.rollout_batch_size=8", "ppo.minibatch_size=4", "ppo.ppo_epochs=1")


def prepare(directory: Path, *, tiny: bool) -> None:
    """Write the model, images of noise, and prompts about them, unless they are there."""
    done = directory / "prompts.jsonl"
    if done.exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    write_model(directory / "model", tiny=tiny)
    paths = images(directory / "pictures", PROMPTS)
    instruction = "What is it?"
    records = [PromptRecord(f"pictures/{path.name}", instruction, path.stem) for path in paths]
    write_records(done, records)


def write_preferences(study: Study) -> None:
    """Prefer the shorter of two candidates; random weights have no better ones."""
    pairs = []
    for record in read_records(study.run("collect") / "candidates.jsonl", CandidatesRecord):
        a, b = record.responses[:2]
        if a != b:
            better = "response_a" if len(a) <= len(b) else "response_b"
            pairs.append(
                PreferenceRecord(
                    record.image_path,
                    record.instruction,
                    response_a=a,
                    response_b=b,
                    preference=better,
                )
            )
    write_records(study.runs / "preferences.jsonl", pairs)


def measure(study: Study, stage: str) -> dict[str, Any]:
    """Run a stage, or read what an earlier call measured."""
    output = study.runs / f"{stage}.json"
    if not output.exists():
        if stage == "reward":
            write_preferences(study)
        study.runs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "baselines.watched_command", str(output)]
        paths = f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"
        environment = {**os.environ, "PYTHONPATH": paths}
        subprocess.run([*command, *study.words(stage)], check=True, env=environment)
    return dict(json.loads(output.read_text()))


def planned(study: Study, stage: str) -> dict[str, float]:
    """Return the planned GiB of each measured phase of a stage."""
    if stage not in PLANNED:
        return {}
    command: Stage = "ppo" if stage == "ppo" else "reward"
    config: Config = load_config(yaml.safe_load((study.run(stage) / "config.yaml").read_text()))
    dims = read_dims(config.model.path)
    workload = workload_of(config, dims, starts_from_adapter=False, stage=command, device="cpu")
    peaks = estimate_memory(dims, workload).peaks()
    return {ours: peaks[theirs] / GIB for ours, theirs in PLANNED[stage].items()}


def rows(study: Study, stage: str) -> list[dict[str, Any]]:
    """Return the measures of each phase of a stage, longest first."""
    phases, plan = measure(study, stage), planned(study, stage)
    kept = sorted(phases.items(), key=lambda item: -item[1]["seconds"])
    return [
        {
            "storage": study.storage,
            "stage": stage,
            "phase": phase,
            "seconds": round(row["seconds"], 1),
            "anonymous_gib": round(row["anonymous"] / GIB, 2),
            "mapped_gib": round(row["mapped"] / GIB, 2),
            "planned_gib": round(plan[phase], 2) if phase in plan else None,
        }
        for phase, row in kept
    ]


def show(measured: Sequence[dict[str, Any]]) -> None:
    """Print a table with a line for each phase."""
    table = Table(*measured[0])
    for row in measured:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--storage", nargs="+", choices=[*STORAGE], default=[*STORAGE])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--directory", type=Path, default=ROOT / "runs" / "llava_7b_cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny model")
    arguments = parser.parse_args(argv)
    directory = (arguments.directory / ("tiny" if arguments.tiny else "7b")).absolute()
    prepare(directory, tiny=arguments.tiny)
    measured = []
    for storage in arguments.storage:
        for stage in arguments.stages:
            if stage == "export" and storage != "bf16":
                continue  # quantized weights cannot be merged into
            measured += rows(Study(directory, storage), stage)
            show(measured)
    if not arguments.tiny:
        RESULTS.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
