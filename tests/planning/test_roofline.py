"""The ideal of what was measured, by metrics worked by hand; the calibration by its bounds."""

from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from rlhf.planning import roofline as module
from rlhf.planning.gpus import GPU
from rlhf.planning.ideal_time import ideal_seconds
from rlhf.planning.model_dims import ModelDims, read_dims
from rlhf.planning.roofline import calibrate, measure_roofline, synchronizer
from rlhf.tracking.profiler import IterationTimes
from tests.support.planned import WORKLOAD

CARD = GPU("made up", 0, 100.0, 100.0, 2.0)
WEIGHTS = 2 * (6_476_005_376 + 65 * 4096 + 32064 * 4096)  # bfloat16, embeddings left out
KEPT = 2 * 32 * 4096 * 2  # keys and values of a token, 32 layers
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


@pytest.fixture(scope="module")
def seven() -> ModelDims:
    return read_dims("llava-hf/llava-1.5-7b-hf")


def lap(counts: dict[str, int], **spent: float) -> IterationTimes:
    return IterationTimes(defaultdict(float, spent), defaultdict(int, counts))


def test_a_run_as_planned_has_the_planned_ideal(seven: ModelDims) -> None:
    found = measure_roofline(seven, WORKLOAD, CARD, [lap(COUNTS, decode=4.0, other=196.0)])
    planned = ideal_seconds(seven, WORKLOAD, CARD)
    assert found.ideal["values"] == 0
    assert found.ideal == pytest.approx(planned, rel=1e-9)
    assert found.fraction == pytest.approx(sum(planned.values()) / 200)


def test_decoding_is_bound_by_bytes_or_by_products(seven: ModelDims) -> None:
    moved = 127 * WEIGHTS + 64 * 127 * 704 * KEPT
    found = measure_roofline(
        seven, WORKLOAD, CARD, [lap(COUNTS, prefill=1.0, decode=4.0, other=5.0)]
    )
    assert found.ideal["decode"] == pytest.approx(moved / 2e12)
    assert found.bytes_per_decode_step == pytest.approx(WEIGHTS + 64 * 704 * KEPT)
    assert found.decode_tbs == pytest.approx(moved / 4 / 1e12)
    assert (found.response_tokens_per_second, found.generated_tokens_per_second) == (
        819.2,
        8192 / 5,
    )
    slow = measure_roofline(
        seven, WORKLOAD, replace(CARD, bfloat16_tflops=0.1), [lap(COUNTS, decode=4.0)]
    )
    token = 2 * 6_476_005_376 + 2 * 32064 * 4096 + 4 * 4096 * 32 * 704
    assert slow.ideal["decode"] == pytest.approx(64 * 127 * token / 1e11)


def test_only_work_that_was_done_has_an_ideal(seven: ModelDims) -> None:
    """Half of the steps were left out, and the images were known."""
    whole = measure_roofline(seven, WORKLOAD, CARD, [lap(COUNTS, other=1.0)])
    fewer = {**COUNTS, "updated_responses": 2 * 64, "images": 0}
    part = measure_roofline(seven, WORKLOAD, CARD, [lap(fewer, other=1.0)])
    assert part.ideal["update"] == pytest.approx(whole.ideal["update"] / 2)
    assert part.ideal["vision"] == 0 < whole.ideal["vision"]


def test_a_critic_of_its_own_takes_as_long_as_the_policy(seven: ModelDims) -> None:
    shared = measure_roofline(seven, WORKLOAD, CARD, [lap(COUNTS, other=1.0)]).ideal
    own = measure_roofline(
        seven, replace(WORKLOAD, critic="separate"), CARD, [lap(COUNTS, other=1.0)]
    ).ideal
    assert own["values"] == own["old_logprobs"] == pytest.approx(shared["old_logprobs"])


def test_iterations_are_averaged_and_the_table_adds_up(seven: ModelDims) -> None:
    laps = [
        lap(COUNTS, other=1.0, forward=2.0, backward=4.0, vision=0.5),
        lap(COUNTS, other=3.0, forward=4.0, backward=6.0, optimizer=1.0),
    ]
    found = measure_roofline(seven, WORKLOAD, CARD, laps)
    rows = {row[0]: row[1:] for row in found.table_rows()}
    spent = {"vision": 0.25, "forward": 3, "backward": 5, "optimizer": 0.5, "other": 2}
    assert [*found.seconds.items()] == [*spent.items()]
    assert {name: rows[name][0] for name in spent} == spent
    assert rows["the update's three"][0] == 8.5 and rows["in all"][:2] == (10.75, "100%")
    assert rows["in all"][3] == f"{found.fraction:.0%}"
    assert rows["other"][1:] == ("19%", "", "")


def test_without_decoding_there_is_no_rate(seven: ModelDims) -> None:
    counts = {**COUNTS, "response_tokens": 64, "seen_tokens": 0, "read_tokens": 0}
    counts["decode_steps"] = 0
    found = measure_roofline(seven, WORKLOAD, CARD, [lap(counts, other=1.0)])
    assert (found.bytes_per_decode_step, found.decode_tbs, found.generated_tokens_per_second) == (
        0,
        0,
        0,
    )
    assert found.ideal["decode"] == 0


def test_the_calibration_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_PER_TRIAL", 1e-3)
    state = torch.get_rng_state()
    for dtype in (torch.float32, torch.bfloat16):
        gpu = calibrate(torch.device("cpu"), dtype)
        assert (
            1e-4 < gpu.bfloat16_tflops == gpu.float32_tflops < 100 and 1e-4 < gpu.bandwidth_tbs < 10
        )
    assert torch.equal(state, torch.get_rng_state())


def test_the_fastest_run_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 0.3, 0.1 and 0.2 s fill half a second; the first one, of 9 s, is no trial."""
    now, lasting = [0.0], iter([9.0, 0.3, 0.1, 0.2])

    def work() -> None:
        now[0] += next(lasting)

    monkeypatch.setattr("rlhf.planning.roofline.time.perf_counter", lambda: now[0])
    assert module._fastest_seconds(work, lambda: None) == pytest.approx(0.1)


def test_another_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    synchronizer(torch.device("cpu"))()
    synchronizer(torch.device("cuda:1"))()
    assert waited == [torch.device("cuda:1")]
