"""Memory and time of a PPO iteration of LLaVA-1.5-7B on one GPU, beside the plan of `rlhf plan`.

    python benchmarks/llava_7b.py                 every case, each a minute or two on an H200
    python benchmarks/llava_7b.py --cases nf4/16 nf4/64/alora
    python benchmarks/llava_7b.py --tiny          a tiny model on the CPU, a quick check

A case is storage/responses, or storage/responses/alora for aLoRA. The weights are random, of the
published configuration: they take the memory and time of the trained ones. Each case is a process
of its own: the base model with the adapters of policy and reward (r=64), 640 prompt and 128
response tokens, micro-batches of 8,192 tokens, gradient checkpointing. Prints a table and writes
benchmarks/results/llava_7b.json. Needs neither hydra nor msgspec.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bitsandbytes
import peft
import torch
import transformers
from random_llava import images, prompts_of, write_model
from rich.console import Console
from rich.table import Table

from rlhf.config.schema import GIB, ModelConfig, PPOConfig, SamplingConfig
from rlhf.data.microbatching import map_microbatches
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.models.lora import add_adapter
from rlhf.models.policy import POLICY, build_policy
from rlhf.models.scalar_head import ScalarHead
from rlhf.planning.devices import local_device
from rlhf.planning.ideal_time import ideal_seconds
from rlhf.planning.memory import estimate_memory
from rlhf.planning.model_dims import read_dims
from rlhf.planning.resident_memory import PROCESS_BYTES
from rlhf.planning.workload import Workload
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.updater import Updater
from rlhf.rewards.base import REWARD
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.types import PromptBatch, Responses, Rollout, SampledTokens

RESULTS = Path(__file__).parent / "results" / "llava_7b.json"
CASES = ("nf4/16", "nf4/64", "nf4/64/alora", "int8/64", "bf16/64")
BARS = {"nf4/16": 15, "nf4/64": 23, "bf16/64": 44}  # GiB reserved, at most
PHASES = {"generate": "rollout", "score": "scoring", "update": "update"}  # names in the plan
WORK = {
    "generate": ("prefill", "decode"),
    "score": ("old_logprobs", "ref_logprobs", "scores"),
    "update": ("update",),
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the measured iteration."""

    prompt: int = 640
    response: int = 128
    microbatch: int = 8192
    rank: int = 64
    generation_batch_size: int = 32


TINY = Sizes(prompt=40, response=6, microbatch=200, rank=4)


@dataclass
class Meter:
    """Seconds and peak allocated bytes of each phase, and the peak reserved bytes."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    allocated: dict[str, int] = field(default_factory=dict)
    reserved: int = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block as a phase."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        started = time.perf_counter()
        yield
        if on_gpu:
            torch.cuda.synchronize()
            self.allocated[name] = torch.cuda.max_memory_allocated()
            self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())
        self.seconds[name] = time.perf_counter() - started


class Iteration:
    """One PPO iteration, phase by phase."""

    def __init__(self, llava: Llava, model: ModelConfig, ppo: PPOConfig, sizes: Sizes) -> None:
        self.llava, self.ppo = llava, ppo
        self.sampling = SamplingConfig(
            max_new_tokens=sizes.response, batch_size=sizes.generation_batch_size
        )
        self.policy = build_policy(llava, model, temperature=1.0)
        add_adapter(llava.adapters, REWARD, model)
        llava.adapters.switch(POLICY)
        head = ScalarHead(llava.hidden_size).to(llava.device)
        self.reward = LlavaReward(llava, head, llava.builder)
        self.updater = Updater(ppo, self.policy, steps=1)

    def run(self, prompts: PromptBatch, meter: Meter) -> Rollout:
        """Generate, score and update, measured by `meter`; return the rollout."""
        self.llava.prefix_cache.clear()
        with meter.phase("generate"):
            responses, sampled = generate(self.llava, prompts, self.sampling)
        with meter.phase("score"):
            rollout = self.score(prompts, responses, sampled)
        buffer = RolloutBuffer()
        buffer.append(rollout)
        buffer.finish(self.ppo)
        with meter.phase("update"):
            for minibatch in buffer.minibatches(self.ppo.minibatch_size, torch.Generator()):
                self.updater.step(minibatch, train_policy=True)
        return rollout

    @torch.no_grad()
    def score(self, prompts: PromptBatch, responses: Responses, sampled: SampledTokens) -> Rollout:
        """Return the rollout of sampled responses, computed as in `collect_rollout`."""
        limit = self.ppo.microbatch_tokens
        scores = self.reward.scores(prompts, responses, max_tokens=limit)
        outputs = map_microbatches(self.policy.evaluate, prompts, responses, limit)
        reference = map_microbatches(self.policy.reference_outputs, prompts, responses, limit)
        return Rollout(
            prompts=prompts,
            responses=responses,
            old_logprobs=outputs.logprobs,
            ref_logprobs=reference.logprobs,
            values=outputs.values,
            entropy=outputs.entropy,
            scores=scores,
            logprob_diff=(outputs.logprobs - sampled.logprobs).abs(),
        )


def measure(case: str, directory: Path, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measure a case: one iteration of two rows to warm up, then a whole one of one epoch."""
    storage, rows, *lora_type = case.split("/")
    count, quantization = int(rows), "none" if storage == "bf16" else storage
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    options = {"lora_rank": sizes.rank, "lora_type": lora_type[0] if lora_type else "lora"}
    batch = {
        "rollout_batch_size": count,
        "minibatch_size": min(16, count),
        "microbatch_tokens": sizes.microbatch,
        "ppo_epochs": 1,
    }
    weights: Any = {"dtype": getattr(torch, dtype), "quantization": quantization}
    llava = Llava.load(str(directory), device=device, **weights)
    llava.gradient_checkpointing = True
    if device.type == "cuda":
        torch.cuda.empty_cache()  # memory left from loading
    prompts = prompts_of(llava, images(directory / "pictures", count), sizes.prompt)
    for row in prompts.images:
        llava.vision.features(row[0])
    iteration = Iteration(llava, ModelConfig(**options), PPOConfig(**batch), sizes)
    iteration.run(prompts.select(torch.arange(min(2, count))), Meter(device))
    meter = Meter(device)
    rollout = iteration.run(prompts, meter)
    more: Any = {**options, **batch, "dtype": dtype, "quantization": quantization}
    workload = Workload(
        prompt_tokens=sizes.prompt,
        max_new_tokens=sizes.response,
        sampling_batch_size=sizes.generation_batch_size,
        gradient_checkpointing=True,
        **more,
    )
    plan, peak = planned(str(directory), workload), max(meter.allocated.values(), default=0)
    # The allocator does not see the CUDA context.
    planned_peak = max(plan["planned_gib"].values()) * GIB - PROCESS_BYTES
    return {
        "case": case,
        "seconds": meter.seconds,
        "allocated_gib": {name: value / GIB for name, value in meter.allocated.items()},
        "reserved_gib": meter.reserved / GIB,
        "planned_over_measured": planned_peak / peak if peak else 0.0,
        "response_tokens": rollout.spans.num_tokens,
        "max_logprob_diff": float(rollout.logprob_diff.max()),
        **plan,
    }


def planned(base: str, workload: Workload) -> dict[str, Any]:
    """Return what `rlhf plan` estimates, with ideal seconds where the device is known."""
    dims, device = read_dims(base), local_device()
    peaks = estimate_memory(dims, workload).peaks()
    times = ideal_seconds(dims, workload, device) if device.has_rates else {}
    return {
        "planned_gib": {name: peaks[phase] / GIB for name, phase in PHASES.items()},
        "ideal_seconds": {
            name: sum(times[part] for part in parts) for name, parts in WORK.items() if times
        },
    }


def show(records: list[dict[str, Any]]) -> None:
    """Print a table with a row for each case."""
    columns = [f"{name}: s, GiB (planned)" for name in PHASES]
    table = Table("case", *columns, "plan / measured", "reserved", "bar")
    for record in records:
        cells = [
            f"{record['seconds'][name]:.1f} s, {record['allocated_gib'].get(name, 0):.1f} "
            f"({record['planned_gib'][name]:.1f})"
            for name in PHASES
        ]
        ratio, reserved = record["planned_over_measured"], record["reserved_gib"]
        bar = str(BARS.get(record["case"], ""))
        table.add_row(record["case"], *cells, f"{ratio:.2f}", f"{reserved:.1f}", bar)
    Console().print(table)


def in_own_process(case: str, directory: Path) -> dict[str, Any]:
    """Run `measure` in a fresh process."""
    argv = [sys.executable, __file__, "--model-dir", str(directory), "--cases", case]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--output", type=Path, help=f"default {RESULTS.name}; with --tiny none")
    parser.add_argument("--model-dir", type=Path, help=argparse.SUPPRESS)  # in a child process
    arguments = parser.parse_args()
    if arguments.model_dir:
        print(
            json.dumps(
                measure(arguments.cases[0], arguments.model_dir, Sizes(), torch.device("cuda"))
            )
        )
        return
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch), tiny=arguments.tiny)
        for case in arguments.cases:
            if arguments.tiny:
                records.append(measure(case, Path(scratch), TINY, torch.device("cpu")))
            else:
                records.append(in_own_process(case, Path(scratch)))
            show(records)
    if output := arguments.output or (None if arguments.tiny else RESULTS):
        device = "cpu" if arguments.tiny else torch.cuda.get_device_name()
        versions = {m.__name__: m.__version__ for m in (torch, transformers, peft, bitsandbytes)}
        content = {"device": device, "versions": versions, "cases": records}
        output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
