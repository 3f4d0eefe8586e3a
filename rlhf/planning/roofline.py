"""What a device reaches here and now, and how near to it the phases of an iteration come."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from rlhf.planning.activation_memory import kv_cache_bytes
from rlhf.planning.gpus import GPU
from rlhf.planning.ideal_time import (
    TERA,
    attention_flops,
    ideal_seconds,
    linear_flops,
    lm_head_flops,
    vision_flops,
)
from rlhf.planning.memory import base_model_bytes
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.workload import Workload
from rlhf.tracking.profiler import PHASES, IterationTimes

SECONDS_PER_TRIAL = 0.5  # seconds on each trial; the fastest run counts
UPDATE_PHASES = ("forward", "backward", "optimizer")


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What returns when the device has done what it was given."""
    if device.type == "cpu":
        return lambda: None
    return partial(torch.accelerator.synchronize, device)


def calibrate(device: torch.device, dtype: torch.dtype) -> GPU:
    """The device's best in half a second each of products in `dtype`, of copies and of reads.

    Takes at most 1 GiB, and gives it back; leaves torch's global generators alone.
    """
    rate = _matmul_flops(device, dtype) / TERA
    found = GPU("this device", 0, rate, rate, _memory_bandwidth(device) / TERA)
    torch.cuda.empty_cache()
    return found


def _matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """A second, of the product of two square matrices."""
    width = 1024 if device.type == "cpu" else 8192
    numbers = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    left = numbers.to(device, dtype)
    right, product = left.clone(), torch.empty_like(left)
    return (
        2
        * width**3
        / _fastest_seconds(lambda: torch.mm(left, right, out=product), synchronizer(device))
    )


def _memory_bandwidth(device: torch.device) -> float:
    """Bytes a second of a copy, which moves them twice, or of a sum, the better of the two."""
    source = torch.ones(2**25 if device.type == "cpu" else 2**27, device=device)
    target, wait = torch.empty_like(source), synchronizer(device)
    copied = 2 * source.nbytes / _fastest_seconds(lambda: target.copy_(source), wait)
    return max(copied, source.nbytes / _fastest_seconds(source.sum, wait))


def _fastest_seconds(work: Callable[[], object], wait: Callable[[], None]) -> float:
    """Seconds of the fastest run of those that fit into SPENT, after one to warm up."""
    times: list[float] = []
    work()
    while sum(times) < SECONDS_PER_TRIAL:
        wait()
        started = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - started)
    return min(times)


@dataclass(frozen=True)
class Roofline:
    """Where an iteration's time goes, beside what the device's best allows.

    Attributes:
        seconds: measured, by phase.
        ideal: seconds of the phases whose work is known; `update` is that of three.
        response_rate, generation_rate: response tokens a second of the iteration, of generating.
        step_bytes: that a decoding step must read: weights, and keys and values once.
        decode_rate: such bytes a second, 10¹².
        card: the device's best.
    """

    seconds: dict[str, float]
    ideal: dict[str, float]
    response_tokens_per_second: float
    generated_tokens_per_second: float
    bytes_per_decode_step: float
    decode_tbs: float
    gpu: GPU

    @property
    def fraction(self) -> float:
        """Of all measured seconds, those that the device's best would take."""
        return sum(self.ideal.values()) / sum(self.seconds.values())

    def table_rows(self) -> list[tuple[str, float, str, str, str]]:
        """Phase, seconds, share of all, ideal seconds, their share of the measured."""
        update = sum(self.seconds.get(name, 0.0) for name in UPDATE_PHASES)
        sums = {"the update's three": update, "in all": sum(self.seconds.values())}
        known = self.ideal | {"the update's three": self.ideal["update"]}
        known["in all"] = sum(self.ideal.values())
        return [
            self._table_row(name, spent, known.get(name, 0.0))
            for name, spent in (self.seconds | sums).items()
        ]

    def _table_row(self, name: str, spent: float, ideal: float) -> tuple[str, float, str, str, str]:
        share = f"{spent / sum(self.seconds.values()):.0%}"
        known = (f"{ideal:.4g}", f"{ideal / spent:.0%}") if ideal and spent else ("", "")
        return name, spent, share, *known


def measure_roofline(
    dims: ModelDims, workload: Workload, gpu: GPU, iterations: Sequence[IterationTimes]
) -> Roofline:
    """Means over iterations, beside the ideal of what they did.

    Args:
        shape: of the model.
        setup: of the run; lengths and rows are those of `laps`.
        card: what the device reaches, from `calibrate`.
        laps: at least one.
    """
    times = _mean([lap.seconds for lap in iterations])
    counts = _mean([lap.counts for lap in iterations])
    steps, moved = counts["decode_steps"], _decode_bytes(dims, workload, counts)
    generating = times["prefill"] + times["decode"]
    return Roofline(
        seconds={name: times[name] for name in PHASES if times[name]},
        ideal=_ideal(dims, workload, gpu, counts),
        response_tokens_per_second=counts["response_tokens"] / sum(times.values()),
        generated_tokens_per_second=counts["response_tokens"] / generating if generating else 0.0,
        bytes_per_decode_step=moved / steps if steps else 0.0,
        decode_tbs=moved / times["decode"] / TERA if times["decode"] else 0.0,
        gpu=gpu,
    )


def _mean(values: Sequence[Mapping[str, float]]) -> defaultdict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for one in values:
        for name, value in one.items():
            found[name] += value / len(values)
    return found


def _ideal(
    dims: ModelDims, workload: Workload, gpu: GPU, counts: Mapping[str, float]
) -> dict[str, float]:
    """Seconds by phase; prompts and responses are taken for equally long ones, and an image counts
    for each prompt that asks of it."""
    rows = counts["responses"]
    workload = replace(
        workload,
        prompt_tokens=round(counts["prompt_tokens"] / rows),
        max_new_tokens=round(counts["response_tokens"] / rows),
        rollout_batch_size=round(rows),
    )
    times = ideal_seconds(dims, workload, gpu)
    updated = counts["updated_responses"] / (workload.ppo_epochs * rows)
    return times | {
        "vision": counts["images"] * vision_flops(dims) / (TERA * gpu.bfloat16_tflops),
        "decode": _decode_seconds(dims, workload, gpu, counts),
        "update": times["update"] * updated,
    }


def _decode_seconds(
    dims: ModelDims, workload: Workload, gpu: GPU, counts: Mapping[str, float]
) -> float:
    tokens = counts["response_tokens"] - counts["responses"]
    looks = 2 * attention_flops(dims, 1) * counts["seen_tokens"]
    products = tokens * (linear_flops(dims) + lm_head_flops(dims)) + looks
    moved = _decode_bytes(dims, workload, counts)
    return max(moved / (TERA * gpu.bandwidth_tbs), products / (TERA * gpu.bfloat16_tflops))


def _decode_bytes(dims: ModelDims, workload: Workload, counts: Mapping[str, float]) -> float:
    """Weights once a step; keys and values once for each token that sees them."""
    parts = base_model_bytes(dims, workload)
    weights = parts["language model"] + (parts["head"] or parts["embeddings"])
    kept = kv_cache_bytes(dims, workload, 1, 1)
    return counts["decode_steps"] * weights + counts["read_tokens"] * kept
