"""The time that the device's best would take, against metrics worked by hand."""

from dataclasses import replace
from typing import Any

import pytest

from rlhf.planning.gpus import GPU
from rlhf.planning.ideal_time import (
    forward_flops,
    ideal_seconds,
    linear_flops,
    lm_head_flops,
    vision_flops,
)
from rlhf.planning.model_dims import ModelDims, read_dims
from tests.support.planned import WORKLOAD


@pytest.fixture(scope="module")
def seven() -> ModelDims:
    return read_dims("llava-hf/llava-1.5-7b-hf")


def test_the_time_of_the_7b_by_hand(seven: ModelDims) -> None:
    """The published sums: 7.1 PF at 790 TF/s are 8.9 s, and decoding 1.1 s at 4.3 TB/s."""
    assert linear_flops(seven) == pytest.approx(12.95e9, rel=0.001)
    assert forward_flops(seven, WORKLOAD) == pytest.approx(10.10e12, rel=0.001)
    assert lm_head_flops(seven) == 2 * 4096 * 32064
    assert vision_flops(seven) == pytest.approx(0.405e12, rel=0.01)
    gpu = GPU("measured H200", 139, 790, 60, 4.3)
    found = ideal_seconds(seven, WORKLOAD, gpu)
    assert found["prefill"] == pytest.approx(64 * 8.40 / 790, rel=0.005)
    assert found["ref_logprobs"] == found["scores"] == found["old_logprobs"]
    assert found["ref_logprobs"] == pytest.approx(64 * (10.10 + 0.034) / 790, rel=0.005)
    assert found["update"] == pytest.approx(4 * 64 * 2 * (10.10 + 0.034) / 790, rel=0.005)
    assert found["decode"] == pytest.approx(1.09, rel=0.01)
    assert sum(found.values()) - found["old_logprobs"] == pytest.approx(10.0, rel=0.02)


def test_the_time_of_responses_alone_by_hand(seven: ModelDims) -> None:
    """The published sum is 3.2 s; of prompts that are not kept each pass reads its own."""
    gpu = GPU("measured H200", 139, 790, 60, 4.3)
    workload = replace(WORKLOAD, lora_type="alora", prefix_cache_gib=100)
    kept = ideal_seconds(seven, workload, gpu)
    assert kept["prefill"] == pytest.approx(64 * 8.40 / 790, rel=0.005)
    assert kept["ref_logprobs"] == pytest.approx(64 * (1.71 + 0.034) / 790, rel=0.005)
    assert kept["update"] == pytest.approx(4 * 64 * 2 * (1.71 + 0.034) / 790, rel=0.005)
    assert sum(kept.values()) - kept["old_logprobs"] == pytest.approx(3.2, rel=0.03)
    anew = ideal_seconds(seven, replace(workload, prefix_cache_gib=0), gpu)
    assert anew["ref_logprobs"] == pytest.approx(64 * (10.10 + 0.034) / 790, rel=0.005)
    half = ideal_seconds(seven, replace(workload, prefix_cache_gib=10), gpu)  # of 20 GiB
    assert half["update"] == pytest.approx((kept["update"] + anew["update"]) / 2)
    four = ideal_seconds(seven, replace(workload, samples_per_prompt=4), gpu)
    assert four["prefill"] == pytest.approx(kept["prefill"] / 4, rel=0.01)


@pytest.mark.parametrize(("samples", "total"), [(4, 3.9), (8, 2.9)])
def test_the_time_of_shared_prompts_is_the_published_sum(
    seven: ModelDims, samples: int, total: float
) -> None:
    gpu = GPU("measured H200", 139, 790, 60, 4.3)
    found = ideal_seconds(seven, replace(WORKLOAD, samples_per_prompt=samples), gpu)
    assert sum(found.values()) - found["old_logprobs"] == pytest.approx(total, rel=0.05)
    # 8.40 TF a prompt, 1.71 a response
    expected = 64 * (8.40 / samples + 1.71 + 0.034) / 790
    assert found["ref_logprobs"] == pytest.approx(expected, rel=0.005)


def test_what_costs_time(seven: ModelDims) -> None:
    gpu = GPU("some", 80, 300, 20, 2)

    def of(**options: Any) -> dict[str, float]:
        return ideal_seconds(seven, replace(WORKLOAD, **options), gpu)

    row = 4 * 64 * forward_flops(seven, WORKLOAD) / 300e12
    assert of(gradient_checkpointing=True)["update"] - of()["update"] == pytest.approx(row)
    assert of(critic="adapter")["update"] == 2 * of()["update"]
    assert of(train="full")["update"] == pytest.approx(1.5 * of()["update"] * 300 / 20)
    assert of(reward="none")["scores"] == 0
    assert of(sampling_batch_size=16)["decode"] > of(sampling_batch_size=48)["decode"]
    assert of(sampling_batch_size=48)["decode"] > of()["decode"]
    slow = replace(gpu, bfloat16_tflops=0.001)  # bound by arithmetic: rows cost, not batches
    one, four = (
        ideal_seconds(seven, replace(WORKLOAD, sampling_batch_size=n), slow)["decode"]
        for n in (64, 16)
    )
    assert one == pytest.approx(four)
