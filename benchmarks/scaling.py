"""PPO on 1, 2 and 4 processes, measured; on 8, 64 and 512 GPUs, planned.

    python benchmarks/scaling.py             measure and plan; about 10 minutes on two cores
    python benchmarks/scaling.py --planned   only plan, with the measured spread of lengths
    python benchmarks/scaling.py --tiny      a quick check of the script

Measured are the CPU seconds of the slowest process, since the processes of a machine with few
cores share them: a tiny LLaVA, four parts, medians of iterations after one of warm-up, the numbers
of processes side by side in each repeat. What is planned comes from `rlhf plan`'s model of time and
of what is sent, and is marked so. Writes results/scaling.json.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import rlhf
from rlhf.config.schema import Config, ParallelConfig
from rlhf.demo.scenes import write_images
from rlhf.demo.tiny_llava import build_tiny_llava
from rlhf.parallel.launcher import launch
from rlhf.parallel.world import World
from rlhf.planning.devices import GPUS
from rlhf.planning.exchange import exchange_seconds, sent_bytes
from rlhf.planning.ideal_time import ideal_seconds
from rlhf.planning.model_dims import read_dims
from rlhf.planning.workload import Workload
from rlhf.ppo.iteration import iteration_parts

RESULTS = Path(__file__).parent / "results" / "scaling.json"
PARTS, PATIENCE = 4, 600.0
SIZES = {"images": 512, "rollout": 256, "iterations": 5, "repeats": 3, "response": 16}
TINY = {"images": 16, "rollout": 16, "iterations": 2, "repeats": 1, "response": 4}
BARS = {2: 0.60, 4: 0.36}  # CPU seconds of the slowest process against one process
MODELS = {"7B": "llava-hf/llava-1.5-7b-hf", "13B": "llava-hf/llava-1.5-13b-hf"}
GPU_COUNTS = (1, 8, 64, 512)
LINK_RATE = 12.5e9  # bytes a second between GPUs of a cluster, assumed: 100 Gbit/s a GPU
WORKLOAD = Workload(  # of one GPU; on several each has as many responses
    prompt_tokens=640,
    max_new_tokens=128,
    rollout_batch_size=64,
    minibatch_size=16,
    microbatch_tokens=8192,
    sampling_batch_size=64,
    lora_rank=16,
    gradient_checkpointing=True,
)


class Measure(rlhf.Callback):
    """CPU seconds, seconds in exchanges, and tokens, of each iteration on this process."""

    def __init__(self, world: World) -> None:
        self.world, self.rows = world, list[dict[str, float]]()
        self.lengths: list[int] = []
        self.waited, self.started = 0.0, time.process_time()
        self._exchange = World.exchange
        World.exchange = self._timed()  # type: ignore[method-assign]

    def on_rollout(self, trainer: Any, rollout: Any) -> None:
        parts = iteration_parts(trainer, trainer.iteration).of(rollout.prompts.sampling_keys)
        owners = parts * self.world.size // PARTS
        tokens = torch.zeros(self.world.size).index_add_(0, owners, rollout.spans.lengths.float())
        self.imbalance = float(tokens.max() / tokens.mean())
        self.lengths = rollout.spans.lengths.tolist()

    def on_iteration(self, trainer: Any, metrics: Mapping[str, float]) -> None:
        now = time.process_time()
        row = {"cpu": now - self.started, "exchange": self.waited, "imbalance": self.imbalance}
        self.rows.append(row)
        self.waited, self.started = 0.0, now

    def _timed(self) -> Any:
        exchange, measure = self._exchange, self

        @contextmanager
        def timed(world: World) -> Iterator[None]:
            start = time.perf_counter()
            with exchange(world):
                yield
            measure.waited += time.perf_counter() - start

        return timed


def prepare(directory: Path, images: int) -> None:
    """Write a tiny LLaVA and the images of the prompts."""
    build_tiny_llava(directory / "model", ["What do you see? a red circle and a star"], seed=0)
    write_images(directory / "pictures", images, "scaling")


def short_and_varied(images: Any, instructions: Any, responses: Sequence[str]) -> list[float]:
    """Score a response by its letters; cheap, and not the same for all."""
    return [sum(map(ord, response)) % 97 / 97 for response in responses]


def train(directory: Path, sizes: Mapping[str, int]) -> None:
    """Run PPO as one of the processes of a launcher; write what it measured."""
    rollout = sizes["rollout"]
    ppo = rlhf.PPOConfig(
        iterations=sizes["iterations"],
        rollout_batch_size=rollout,
        minibatch_size=rollout // 2,
        ppo_epochs=2,
        sanity_checks=False,
        critic_warmup_iterations=0,
        save_every=0,
        log_samples_every=10**6,
    )
    sampling = rlhf.SamplingConfig(max_new_tokens=sizes["response"], batch_size=rollout)
    model = rlhf.load_model(directory / "model", device="cpu")
    with rlhf.join_processes(PATIENCE) as world:
        measure = Measure(world)
        rlhf.PPOTrainer(
            rlhf.Policy.from_model(model, ppo),
            rlhf.RewardFunction(short_and_varied),
            rlhf.Prompts.from_directory(directory / "pictures", "What do you see?"),
            ppo,
            sampling=sampling,
            callbacks=[measure],
            run_config=Config(ppo=ppo, sampling=sampling, parallel=ParallelConfig(parts=PARTS)),
            world=world,
        ).run()
    result = {"rows": measure.rows, "lengths": measure.lengths}
    (directory / f"process-{world.rank}.json").write_text(json.dumps(result))


def run_processes(directory: Path, count: int, *flags: str) -> dict[str, Any]:
    """Train on a number of processes; return medians over iterations, of the slowest process."""
    for file in directory.glob("process-*.json"):
        file.unlink()
    command = [sys.executable, __file__, "--worker", str(directory), *flags]
    if codes := launch(command, count, PATIENCE):
        raise SystemExit(f"{count} processes end with {codes}")
    results = [json.loads(file.read_text()) for file in sorted(directory.glob("process-*.json"))]
    names = results[0]["rows"][0]
    warm = {n: [median(row[n] for row in result["rows"][1:]) for result in results] for n in names}
    return {name: max(values) for name, values in warm.items()} | {"lengths": results[0]["lengths"]}


def measured(sizes: Mapping[str, int], *flags: str) -> dict[str, Any]:
    """Measure 1, 2 and 4 processes side by side; ratios are medians over the repeats."""
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: [], 4: []}
    with tempfile.TemporaryDirectory() as directory:
        prepare(Path(directory), sizes["images"])
        for _ in range(sizes["repeats"]):
            for count, done in runs.items():
                done.append(run_processes(Path(directory), count, *flags))
    lengths = torch.tensor(runs[1][0]["lengths"], dtype=torch.float32)
    rows = {
        count: {
            "cpu_seconds": median(run["cpu"] for run in done),
            "ratio": median(a["cpu"] / b["cpu"] for a, b in zip(done, runs[1], strict=True)),
            "exchange_seconds": median(run["exchange"] for run in done),
            "token_imbalance": median(run["imbalance"] for run in done),
        }
        for count, done in runs.items()
    }
    return {"processes": rows, "length_variation": float(lengths.std() / lengths.mean())}


def planned(variation: float) -> list[dict[str, Any]]:
    """Plan an iteration on H100s, each with as many responses as one alone has.

    The process with most tokens has about 1 + v·√(2 ln N / n) times the mean, for n responses of
    each of N processes whose lengths vary by v, the standard deviation over the mean.
    """
    rows = []
    for name, path in MODELS.items():
        dims, alone = read_dims(path), 0.0
        for count in GPU_COUNTS:
            batch = {
                "rollout_batch_size": WORKLOAD.rollout_batch_size * count,
                "minibatch_size": WORKLOAD.minibatch_size * count,
            }
            run = replace(WORKLOAD, processes=count, parts=count, **batch)  # type: ignore[arg-type]
            times = ideal_seconds(dims, run, GPUS["H100"])
            times.pop("exchange", 0.0)
            spread = variation * math.sqrt(2 * math.log(count) / WORKLOAD.rollout_batch_size)
            exchange = exchange_seconds(dims, run, LINK_RATE)
            total = sum(times.values()) * (1 + spread) + exchange
            alone = alone or total
            sent = {part: size / 1e9 for part, size in sent_bytes(dims, run).items()}
            facts = {"model": name, "gpus": count, "seconds": total, "exchange": exchange}
            rows.append({**facts, "imbalance": 1 + spread, "sent_gb": sent, "use": alone / total})
    return rows


def show(result: Mapping[str, Any]) -> None:
    """Print both tables."""
    table = Table(
        title="measured: a tiny LLaVA, slowest process, an iteration", title_justify="left"
    )
    for column in ("processes", "CPU seconds", "against one", "bar", "exchange s", "imbalance"):
        table.add_column(column, justify="right")
    for count, row in result["processes"].items():
        bar = f"≤ {BARS[int(count)]:.2f}" if int(count) in BARS else ""
        numbers = (row["exchange_seconds"], row["token_imbalance"])
        ratio = f"{row['cpu_seconds']:.2f}", f"{row['ratio']:.3f}", bar
        table.add_row(str(count), *ratio, *(f"{number:.3f}" for number in numbers))
    Console().print(table)
    title = "planned, not measured: H100, 64 responses a GPU, LoRA rank 16, 100 Gbit/s a GPU"
    table = Table(title=title, title_justify="left")
    for column in ("model", "GPUs", "seconds", "of them exchange", "imbalance", "use of a GPU"):
        table.add_column(column, justify="right")
    for row in result["planned"]:
        texts = (f"{row['seconds']:.1f}", f"{row['exchange']:.2f}", f"{row['imbalance']:.3f}")
        table.add_row(row["model"], str(row["gpus"]), *texts, f"{row['use']:.0%}")
    Console().print(table)


def markdown(result: Mapping[str, Any]) -> str:
    """Both tables of docs/pages/guides/parallel.md."""
    lines = [
        "| processes | CPU seconds of the slowest | against one | seconds of exchange |",
        "|---:|---:|---:|---:|",
    ]
    for count, row in result["processes"].items():
        ratio = f"{row['ratio']:.2f} × | {row['exchange_seconds']:.2f}"
        lines.append(f"| {count} | {row['cpu_seconds']:.2f} | {ratio} |")
    lines += ["", "| planned, not measured | 1 GPU | 8 | 64 | 512 |", "|---|---:|---:|---:|---:|"]
    for model in MODELS:
        rows = [row for row in result["planned"] if row["model"] == model]
        cells = (f"{row['seconds']:.1f} s ({row['use']:.0%})" for row in rows)
        lines.append(f"| {model}, an iteration (use of a GPU) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a quick check; writes nothing")
    parser.add_argument("--planned", action="store_true", help="only plan anew")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = TINY if options.tiny else SIZES
    if options.worker:
        train(options.worker, sizes)
        return
    flags = ["--tiny"] if options.tiny else []
    result = json.loads(RESULTS.read_text()) if options.planned else measured(sizes, *flags)
    result["planned"] = planned(result["length_variation"])
    show(result)
    print(markdown(result))
    if not options.tiny:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
