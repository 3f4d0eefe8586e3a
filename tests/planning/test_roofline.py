"""Ideal times of measured counts against numbers computed by hand; bounds of the calibration."""

from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from rlhf.planning import roofline as module
from rlhf.planning.devices import Device
from rlhf.planning.ideal_time import ideal_seconds
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.roofline import calibrate, measure_roofline, synchronizer
from rlhf.tracking.profiler import IterationTimes
from tests.support.planned import WORKLOAD

TEST_GPU = Device("test", 0, 100.0, 100.0, 2.0)
WEIGHTS = 2 * (6_476_005_376 + 65 * 4096 + 32064 * 4096)  # bfloat16, embeddings left out
KV_BYTES = 2 * 32 * 4096 * 2  # keys and values of a token, 32 layers
COUNTS = {
    "responses": 64,
    "prompt_tokens": 64 * 640,
    "response_tokens": 64 * 128,
    "seen_tokens": 64 * 127 * (640 + 64),
    "read_tokens": 64 * 127 * (640 + 64),
    "decode_steps": 127,
    "updated_responses": 4 * 64,
    "images": 64,
}


def times_of(counts: dict[str, int], **seconds: float) -> IterationTimes:
    return IterationTimes(defaultdict(float, seconds), defaultdict(int, counts))


def test_the_planned_counts_have_the_planned_ideal_times(llava_7b: ModelDims) -> None:
    roofline = measure_roofline(
        llava_7b, WORKLOAD, TEST_GPU, [times_of(COUNTS, decode=4.0, other=196.0)]
    )
    planned = ideal_seconds(llava_7b, WORKLOAD, TEST_GPU)
    assert roofline.ideal["values"] == 0
    assert roofline.ideal == pytest.approx(planned, rel=1e-9)
    assert roofline.fraction == pytest.approx(sum(planned.values()) / 200)


def test_decoding_is_bound_by_bytes_or_by_products(llava_7b: ModelDims) -> None:
    bytes_read = 127 * WEIGHTS + 64 * 127 * 704 * KV_BYTES
    roofline = measure_roofline(
        llava_7b, WORKLOAD, TEST_GPU, [times_of(COUNTS, prefill=1.0, decode=4.0, other=5.0)]
    )
    assert roofline.ideal["decode"] == pytest.approx(bytes_read / 2e12)
    assert roofline.bytes_per_decode_step == pytest.approx(WEIGHTS + 64 * 704 * KV_BYTES)
    assert roofline.decode_tbs == pytest.approx(bytes_read / 4 / 1e12)
    assert (roofline.response_tokens_per_second, roofline.generated_tokens_per_second) == (
        819.2,
        8192 / 5,
    )
    slow = measure_roofline(
        llava_7b, WORKLOAD, replace(TEST_GPU, bfloat16_tflops=0.1), [times_of(COUNTS, decode=4.0)]
    )
    token = 2 * 6_476_005_376 + 2 * 32064 * 4096 + 4 * 4096 * 32 * 704
    assert slow.ideal["decode"] == pytest.approx(64 * 127 * token / 1e11)


def test_only_measured_work_has_an_ideal_time(llava_7b: ModelDims) -> None:
    """Half of the steps were skipped, and the image features were cached."""
    full = measure_roofline(llava_7b, WORKLOAD, TEST_GPU, [times_of(COUNTS, other=1.0)])
    half = {**COUNTS, "updated_responses": 2 * 64, "images": 0}
    partial = measure_roofline(llava_7b, WORKLOAD, TEST_GPU, [times_of(half, other=1.0)])
    assert partial.ideal["update"] == pytest.approx(full.ideal["update"] / 2)
    assert partial.ideal["vision"] == 0 < full.ideal["vision"]


def test_a_separate_critic_takes_as_long_as_the_policy(llava_7b: ModelDims) -> None:
    shared = measure_roofline(llava_7b, WORKLOAD, TEST_GPU, [times_of(COUNTS, other=1.0)]).ideal
    separate = measure_roofline(
        llava_7b, replace(WORKLOAD, critic="separate"), TEST_GPU, [times_of(COUNTS, other=1.0)]
    ).ideal
    assert separate["values"] == separate["old_logprobs"] == pytest.approx(shared["old_logprobs"])


def test_iterations_are_averaged_and_the_table_adds_up(llava_7b: ModelDims) -> None:
    iterations = [
        times_of(COUNTS, other=1.0, forward=2.0, backward=4.0, vision=0.5),
        times_of(COUNTS, other=3.0, forward=4.0, backward=6.0, optimizer=1.0),
    ]
    roofline = measure_roofline(llava_7b, WORKLOAD, TEST_GPU, iterations)
    rows = {row[0]: row[1:] for row in roofline.table_rows()}
    seconds = {"vision": 0.25, "forward": 3, "backward": 5, "optimizer": 0.5, "other": 2}
    assert [*roofline.seconds.items()] == [*seconds.items()]
    assert {name: rows[name][0] for name in seconds} == seconds
    assert rows["the update's three"][0] == 8.5 and rows["in all"][:2] == (10.75, "100%")
    assert rows["in all"][3] == f"{roofline.fraction:.0%}"
    assert rows["other"][1:] == ("19%", "", "")


def test_without_decoding_there_is_no_rate(llava_7b: ModelDims) -> None:
    counts = {**COUNTS, "response_tokens": 64, "seen_tokens": 0, "read_tokens": 0}
    counts["decode_steps"] = 0
    roofline = measure_roofline(llava_7b, WORKLOAD, TEST_GPU, [times_of(counts, other=1.0)])
    assert (
        roofline.bytes_per_decode_step,
        roofline.decode_tbs,
        roofline.generated_tokens_per_second,
    ) == (
        0,
        0,
        0,
    )
    assert roofline.ideal["decode"] == 0


def test_the_calibration_keeps_the_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_PER_TRIAL", 1e-3)
    state = torch.get_rng_state()
    for dtype in (torch.float32, torch.bfloat16):
        gpu = calibrate(torch.device("cpu"), dtype)
        assert (
            1e-4 < gpu.bfloat16_tflops == gpu.float32_tflops < 100 and 1e-4 < gpu.bandwidth_tbs < 10
        )
    assert torch.equal(state, torch.get_rng_state())


def test_the_fastest_trial_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of 0.3, 0.1 and 0.2 s fill half a second; the first run, of 9 s, is a warm-up."""
    now, durations = [0.0], iter([9.0, 0.3, 0.1, 0.2])

    def work() -> None:
        now[0] += next(durations)

    monkeypatch.setattr("rlhf.planning.roofline.time.perf_counter", lambda: now[0])
    assert module._fastest_seconds(work, lambda: None) == pytest.approx(0.1)


def test_synchronizer_waits_for_an_accelerator_only(monkeypatch: pytest.MonkeyPatch) -> None:
    synchronized: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", synchronized.append)
    synchronizer(torch.device("cpu"))()
    synchronizer(torch.device("cuda:1"))()
    assert synchronized == [torch.device("cuda:1")]
