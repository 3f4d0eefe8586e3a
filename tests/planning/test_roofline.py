"""The ideal of what was measured, by metrics worked by hand; the calibration by its bounds."""

from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from rlhf.planning import roofline as module
from rlhf.planning.gpus import GPU
from rlhf.planning.ideal_time import seconds
from rlhf.planning.model_shape import ModelDims, read_dims
from rlhf.planning.roofline import calibrate, roofline, synchronizer
from rlhf.tracking.profiler import IterationTimes
from tests.support.planned import SETUP

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
    found = roofline(seven, SETUP, CARD, [lap(COUNTS, decode=4.0, other=196.0)])
    planned = seconds(seven, SETUP, CARD)
    assert found.ideal["values"] == 0
    assert found.ideal == pytest.approx(planned, rel=1e-9)
    assert found.fraction == pytest.approx(sum(planned.values()) / 200)


def test_decoding_is_bound_by_bytes_or_by_products(seven: ModelDims) -> None:
    moved = 127 * WEIGHTS + 64 * 127 * 704 * KEPT
    found = roofline(seven, SETUP, CARD, [lap(COUNTS, prefill=1.0, decode=4.0, other=5.0)])
    assert found.ideal["decode"] == pytest.approx(moved / 2e12)
    assert found.step_bytes == pytest.approx(WEIGHTS + 64 * 704 * KEPT)
    assert found.decode_rate == pytest.approx(moved / 4 / 1e12)
    assert (found.response_rate, found.generation_rate) == (819.2, 8192 / 5)
    slow = roofline(seven, SETUP, replace(CARD, half=0.1), [lap(COUNTS, decode=4.0)])
    token = 2 * 6_476_005_376 + 2 * 32064 * 4096 + 4 * 4096 * 32 * 704
    assert slow.ideal["decode"] == pytest.approx(64 * 127 * token / 1e11)


def test_only_work_that_was_done_has_an_ideal(seven: ModelDims) -> None:
    """Half of the steps were left out, and the images were known."""
    whole = roofline(seven, SETUP, CARD, [lap(COUNTS, other=1.0)])
    fewer = {**COUNTS, "updated_responses": 2 * 64, "images": 0}
    part = roofline(seven, SETUP, CARD, [lap(fewer, other=1.0)])
    assert part.ideal["update"] == pytest.approx(whole.ideal["update"] / 2)
    assert part.ideal["vision"] == 0 < whole.ideal["vision"]


def test_a_critic_of_its_own_takes_as_long_as_the_policy(seven: ModelDims) -> None:
    shared = roofline(seven, SETUP, CARD, [lap(COUNTS, other=1.0)]).ideal
    own = roofline(seven, replace(SETUP, critic="separate"), CARD, [lap(COUNTS, other=1.0)]).ideal
    assert own["values"] == own["old_logprobs"] == pytest.approx(shared["old_logprobs"])


def test_iterations_are_averaged_and_the_table_adds_up(seven: ModelDims) -> None:
    laps = [
        lap(COUNTS, other=1.0, forward=2.0, backward=4.0, vision=0.5),
        lap(COUNTS, other=3.0, forward=4.0, backward=6.0, optimizer=1.0),
    ]
    found = roofline(seven, SETUP, CARD, laps)
    rows = {row[0]: row[1:] for row in found.rows()}
    spent = {"vision": 0.25, "forward": 3, "backward": 5, "optimizer": 0.5, "other": 2}
    assert [*found.seconds.items()] == [*spent.items()]
    assert {name: rows[name][0] for name in spent} == spent
    assert rows["the update's three"][0] == 8.5 and rows["in all"][:2] == (10.75, "100%")
    assert rows["in all"][3] == f"{found.fraction:.0%}"
    assert rows["other"][1:] == ("19%", "", "")


def test_without_decoding_there_is_no_rate(seven: ModelDims) -> None:
    counts = {**COUNTS, "response_tokens": 64, "seen_tokens": 0, "read_tokens": 0}
    counts["decode_steps"] = 0
    found = roofline(seven, SETUP, CARD, [lap(counts, other=1.0)])
    assert (found.step_bytes, found.decode_rate, found.generation_rate) == (0, 0, 0)
    assert found.ideal["decode"] == 0


def test_the_calibration_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPENT", 1e-3)
    state = torch.get_rng_state()
    for dtype in (torch.float32, torch.bfloat16):
        card = calibrate(torch.device("cpu"), dtype)
        assert 1e-4 < card.half == card.single < 100 and 1e-4 < card.bandwidth < 10
    assert torch.equal(state, torch.get_rng_state())


def test_the_fastest_run_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 0.3, 0.1 and 0.2 s fill half a second; the first one, of 9 s, is no trial."""
    now, lasting = [0.0], iter([9.0, 0.3, 0.1, 0.2])

    def work() -> None:
        now[0] += next(lasting)

    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    assert module._fastest(work, lambda: None) == pytest.approx(0.1)


def test_another_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    synchronizer(torch.device("cpu"))()
    synchronizer(torch.device("cuda:1"))()
    assert waited == [torch.device("cuda:1")]
