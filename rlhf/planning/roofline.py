"""Measure what a device can reach, and how near to it the phases of a PPO iteration come."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from rlhf.planning.activation_memory import kv_cache_bytes
from rlhf.planning.devices import Device
from rlhf.planning.ideal_time import (
    TERA,
    attention_flops,
    decoder_weight_bytes,
    ideal_seconds,
    linear_flops,
    lm_head_flops,
    vision_flops,
)
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.workload import Workload
from rlhf.tracking.profiler import PHASES, IterationTimes

SECONDS_PER_TRIAL = 0.5  # of repeated runs; the fastest one counts
UPDATE_PHASES = ("forward", "backward", "optimizer")


def synchronizer(device: torch.device) -> Callable[[], None]:
    """Return a function that waits until the device has finished its queued work."""
    if device.type == "cpu":
        return lambda: None
    return partial(torch.accelerator.synchronize, device)


def calibrate(device: torch.device, dtype: torch.dtype) -> Device:
    """Measure the device's matrix products in `dtype` and its memory bandwidth, in about 1.5 s.

    It uses at most 1 GiB of memory and frees it; torch's global random generators stay untouched.

    Returns:
        A GPU with the measured rates, as both its bfloat16 and its float32 rate; `gib` is 0.
    """
    rate = _matmul_flops(device, dtype) / TERA
    measured = Device("this device", 0, rate, rate, _memory_bandwidth(device) / TERA)
    torch.cuda.empty_cache()
    return measured


def _matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second in the product of two square matrices."""
    width = 1024 if device.type == "cpu" else 8192
    numbers = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    left = numbers.to(device, dtype)
    right, product = left.clone(), torch.empty_like(left)
    multiply = partial(torch.mm, left, right, out=product)
    return 2 * width**3 / _fastest_seconds(multiply, synchronizer(device))


def _memory_bandwidth(device: torch.device) -> float:
    """Bytes a second of a copy (one read, one write) or of a sum (one read), the faster one."""
    source = torch.ones(2**25 if device.type == "cpu" else 2**27, device=device)
    target, wait = torch.empty_like(source), synchronizer(device)
    copy_rate = 2 * source.nbytes / _fastest_seconds(lambda: target.copy_(source), wait)
    return max(copy_rate, source.nbytes / _fastest_seconds(source.sum, wait))


def _fastest_seconds(run: Callable[[], object], wait: Callable[[], None]) -> float:
    """Seconds of the fastest of repeated runs, after one to warm up."""
    times: list[float] = []
    run()
    while sum(times) < SECONDS_PER_TRIAL:
        wait()
        started = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - started)
    return min(times)


@dataclass(frozen=True)
class Roofline:
    """Measured seconds of an iteration's phases, beside the seconds at the device's peak.

    Attributes:
        seconds: measured, by phase.
        ideal: seconds at the device's peak, by phase; `update` stands for forward, backward and
            optimizer together.
        response_tokens_per_second: response tokens over the whole iteration's time.
        generated_tokens_per_second: response tokens over the time of prefill and decoding.
        bytes_per_decode_step: bytes a decoding step must read: the weights and the KV cache, once.
        decode_tbs: rate at which decoding reads them, 10¹² bytes a second.
        gpu: peak rates of the device.
    """

    seconds: dict[str, float]
    ideal: dict[str, float]
    response_tokens_per_second: float
    generated_tokens_per_second: float
    bytes_per_decode_step: float
    decode_tbs: float
    gpu: Device

    @property
    def fraction(self) -> float:
        """Share of the measured time that the iteration would take at the device's peak."""
        return sum(self.ideal.values()) / sum(self.seconds.values())

    def table_rows(self) -> list[tuple[str, float, str, str, str]]:
        """Rows to print: phase, seconds, share of all seconds, ideal seconds, ideal / measured."""
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
    dims: ModelDims, workload: Workload, gpu: Device, iterations: Sequence[IterationTimes]
) -> Roofline:
    """Compare the mean measured times of iterations with their ideal times.

    Args:
        dims: sizes of the model.
        workload: the run; prompt and response lengths and rows are taken from `iterations`.
        gpu: peak rates of the device, from `calibrate`.
        iterations: measured times and counts, at least one.
    """
    times = _mean([iteration.seconds for iteration in iterations])
    counts = _mean([iteration.counts for iteration in iterations])
    steps, read = counts["decode_steps"], _decode_bytes(dims, workload, counts)
    generating = times["prefill"] + times["decode"]
    return Roofline(
        seconds={name: times[name] for name in PHASES if times[name]},
        ideal=_ideal(dims, workload, gpu, counts),
        response_tokens_per_second=counts["response_tokens"] / sum(times.values()),
        generated_tokens_per_second=counts["response_tokens"] / generating if generating else 0.0,
        bytes_per_decode_step=read / steps if steps else 0.0,
        decode_tbs=read / times["decode"] / TERA if times["decode"] else 0.0,
        gpu=gpu,
    )


def _mean(values: Sequence[Mapping[str, float]]) -> defaultdict[str, float]:
    means: defaultdict[str, float] = defaultdict(float)
    for mapping in values:
        for name, value in mapping.items():
            means[name] += value / len(values)
    return means


def _ideal(
    dims: ModelDims, workload: Workload, gpu: Device, counts: Mapping[str, float]
) -> dict[str, float]:
    """Seconds of each phase at the device's peak.

    All prompts are taken to be equally long, and all responses. An image counts once for each
    prompt about it.
    """
    rows = counts["responses"]
    workload = replace(
        workload,
        prompt_tokens=round(counts["prompt_tokens"] / rows),
        max_new_tokens=round(counts["response_tokens"] / rows),
        rollout_batch_size=round(rows),
    )
    times = ideal_seconds(dims, workload, gpu)
    updated_share = counts["updated_responses"] / (workload.ppo_epochs * rows)
    return times | {
        "vision": counts["images"] * vision_flops(dims) / (TERA * gpu.bfloat16_tflops),
        "decode": _decode_seconds(dims, workload, gpu, counts),
        "update": times["update"] * updated_share,
    }


def _decode_seconds(
    dims: ModelDims, workload: Workload, gpu: Device, counts: Mapping[str, float]
) -> float:
    """Seconds to decode at the device's peak: the larger of reading and computing."""
    tokens = counts["response_tokens"] - counts["responses"]
    attention = 2 * attention_flops(dims, 1) * counts["seen_tokens"]
    operations = tokens * (linear_flops(dims) + lm_head_flops(dims)) + attention
    read = _decode_bytes(dims, workload, counts)
    return max(read / (TERA * gpu.bandwidth_tbs), operations / (TERA * gpu.bfloat16_tflops))


def _decode_bytes(dims: ModelDims, workload: Workload, counts: Mapping[str, float]) -> float:
    """Bytes that decoding reads: the weights once a step, a token's keys and values once a use."""
    weights = decoder_weight_bytes(dims, workload)
    token_kv = kv_cache_bytes(dims, workload, 1, 1)
    return counts["decode_steps"] * weights + counts["read_tokens"] * token_kv
