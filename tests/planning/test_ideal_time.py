"""Ideal times of a run, against numbers computed by hand."""

from dataclasses import replace
from typing import Any

import pytest

from rlhf.planning.devices import Device
from rlhf.planning.ideal_time import (
    forward_flops,
    ideal_seconds,
    linear_flops,
    lm_head_flops,
    vision_flops,
)
from rlhf.planning.model_dims import ModelDims
from tests.support.planned import WORKLOAD


def test_the_time_of_the_7b_by_hand(llava_7b: ModelDims) -> None:
    """The published sums: 7.1 PF at 790 TF/s are 8.9 s, and decoding 1.1 s at 4.3 TB/s."""
    assert linear_flops(llava_7b) == pytest.approx(12.95e9, rel=0.001)
    assert forward_flops(llava_7b, WORKLOAD) == pytest.approx(10.10e12, rel=0.001)
    assert lm_head_flops(llava_7b) == 2 * 4096 * 32064
    assert vision_flops(llava_7b) == pytest.approx(0.405e12, rel=0.01)
    gpu = Device("measured H200", 139, 790, 60, 4.3)
    times = ideal_seconds(llava_7b, WORKLOAD, gpu)
    assert times["prefill"] == pytest.approx(64 * 8.40 / 790, rel=0.005)
    assert times["ref_logprobs"] == times["scores"] == times["old_logprobs"]
    assert times["ref_logprobs"] == pytest.approx(64 * (10.10 + 0.034) / 790, rel=0.005)
    assert times["update"] == pytest.approx(4 * 64 * 2 * (10.10 + 0.034) / 790, rel=0.005)
    assert times["decode"] == pytest.approx(1.09, rel=0.01)
    assert sum(times.values()) - times["old_logprobs"] == pytest.approx(10.0, rel=0.02)


def test_the_time_of_alora_by_hand(llava_7b: ModelDims) -> None:
    """The published sum is 3.2 s; each pass reads the prompts that are not cached."""
    gpu = Device("measured H200", 139, 790, 60, 4.3)
    workload = replace(WORKLOAD, lora_type="alora", prefix_cache_gib=100)
    cached = ideal_seconds(llava_7b, workload, gpu)
    assert cached["prefill"] == pytest.approx(64 * 8.40 / 790, rel=0.005)
    assert cached["ref_logprobs"] == pytest.approx(64 * (1.71 + 0.034) / 790, rel=0.005)
    assert cached["update"] == pytest.approx(4 * 64 * 2 * (1.71 + 0.034) / 790, rel=0.005)
    assert sum(cached.values()) - cached["old_logprobs"] == pytest.approx(3.2, rel=0.03)
    uncached = ideal_seconds(llava_7b, replace(workload, prefix_cache_gib=0), gpu)
    assert uncached["ref_logprobs"] == pytest.approx(64 * (10.10 + 0.034) / 790, rel=0.005)
    half_cached = ideal_seconds(llava_7b, replace(workload, prefix_cache_gib=10), gpu)  # of 20 GiB
    assert half_cached["update"] == pytest.approx((cached["update"] + uncached["update"]) / 2)
    grouped = ideal_seconds(llava_7b, replace(workload, samples_per_prompt=4), gpu)
    assert grouped["prefill"] == pytest.approx(cached["prefill"] / 4, rel=0.01)


@pytest.mark.parametrize(("samples", "total"), [(4, 3.9), (8, 2.9)])
def test_the_time_of_shared_prompts_is_the_published_sum(
    llava_7b: ModelDims, samples: int, total: float
) -> None:
    gpu = Device("measured H200", 139, 790, 60, 4.3)
    times = ideal_seconds(llava_7b, replace(WORKLOAD, samples_per_prompt=samples), gpu)
    assert sum(times.values()) - times["old_logprobs"] == pytest.approx(total, rel=0.05)
    # 8.40 TF a prompt, 1.71 a response
    expected = 64 * (8.40 / samples + 1.71 + 0.034) / 790
    assert times["ref_logprobs"] == pytest.approx(expected, rel=0.005)


def test_what_each_option_costs(llava_7b: ModelDims) -> None:
    gpu = Device("test", 80, 300, 20, 2)

    def times(**options: Any) -> dict[str, float]:
        return ideal_seconds(llava_7b, replace(WORKLOAD, **options), gpu)

    row = 4 * 64 * forward_flops(llava_7b, WORKLOAD) / 300e12
    assert times(gradient_checkpointing=True)["update"] - times()["update"] == pytest.approx(row)
    assert times(critic="adapter")["update"] == 2 * times()["update"]
    assert times(train="full")["update"] == pytest.approx(1.5 * times()["update"] * 300 / 20)
    assert times(reward="none")["scores"] == 0
    assert times(judge="adapter")["scores"] == 2 * times()["scores"] > 0
    assert times(sampling_batch_size=16)["decode"] > times(sampling_batch_size=48)["decode"]
    assert times(sampling_batch_size=48)["decode"] > times()["decode"]
    slow = replace(gpu, bfloat16_tflops=0.001)  # bound by arithmetic: rows cost, not batches
    one_batch, four_batches = (
        ideal_seconds(llava_7b, replace(WORKLOAD, sampling_batch_size=n), slow)["decode"]
        for n in (64, 16)
    )
    assert one_batch == pytest.approx(four_batches)
