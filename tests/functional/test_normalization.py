"""Numbers that follow a run: literals, known limits, and state that survives a checkpoint."""

import json
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.functional import AdaptiveKLController, ScoreScaler
from tests.support.float64 import doubles, exact, quick


def test_the_kl_coefficient_literals() -> None:
    """Errors 0.1, then 3 clipped to 0.2, then -1 clipped to -0.2; 100 of 1,000 responses each."""
    controller = AdaptiveKLController(0.5, target=10.0, horizon=1000)
    assert controller.update(11.0, 100) == pytest.approx(0.5 * 1.01)
    assert controller.update(40.0, 100) == pytest.approx(0.5 * 1.01 * 1.02)
    assert controller.update(0.0, 100) == pytest.approx(0.5 * 1.01 * 1.02 * 0.98)
    before = controller.kl_coef
    assert controller.update(10.0, 100) == before


def test_the_kl_coefficient_stays_in_its_range_and_ignores_what_is_not_finite() -> None:
    controller = AdaptiveKLController(0.5, target=1.0, horizon=1.0, lowest=0.4, highest=0.6)
    assert controller.update(5.0, 100) == 0.6
    assert controller.update(0.0, 100) == 0.4
    for kl in (math.nan, math.inf, -math.inf):
        assert controller.update(kl, 100) == 0.4


def test_the_kl_is_steered_to_its_target() -> None:
    """A policy whose KL is 1 / β ends at the β with KL = target."""
    controller = AdaptiveKLController(2.0, target=6.0, horizon=50)
    for _ in range(200):
        controller.update(1 / controller.kl_coef, 10)
    assert 1 / controller.kl_coef == pytest.approx(6.0, rel=1e-3)


def test_the_kl_coefficient_refuses() -> None:
    for options, name in (
        ({"kl_coef": 0.0}, "kl_coef"),
        ({"kl_coef": 1.0, "target": 0.0}, "target"),
        ({"kl_coef": 1.0, "horizon": 0.0}, "horizon"),
        ({"kl_coef": 1.0, "lowest": 0.0}, "lowest"),
        ({"kl_coef": 1.0, "highest": 0.5}, "kl_coef"),
    ):
        with pytest.raises(ValueError, match=f"{name}: got"):
            AdaptiveKLController(**options)


@quick
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_the_scale_is_the_standard_deviation_of_everything_seen(sizes: list[int]) -> None:
    scaler, seen = ScoreScaler(), []
    for size in sizes:
        scores = 3 * doubles(size) + 100
        seen += scores.tolist()
        got = scaler.scale(scores)
        std = statistics.pstdev(seen) if len(seen) > 1 else 1.0
        torch.testing.assert_close(got, scores / std, rtol=1e-9, atol=1e-9)


def test_scaling_literals() -> None:
    scaler = ScoreScaler(clip=2.5)
    assert scaler.scale(exact([4.0])).tolist() == [2.5]  # one sample: divided by 1, clipped
    assert scaler.scale(exact([8.0])).tolist() == [2.5]  # std 2 of 4 and 8
    assert scaler.std == 2.0
    assert scaler.scale(exact([-6.0])).item() == pytest.approx(-6 / statistics.pstdev([4, 8, -6]))
    assert ScoreScaler().scale(torch.full((3,), 0.1)).tolist() == pytest.approx([0.1] * 3)
    assert ScoreScaler().scale(torch.zeros(0)).shape == (0,)
    assert ScoreScaler().scale(torch.zeros(2).bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="clip: got 0"):
        ScoreScaler(clip=0.0)


def test_scores_that_are_not_finite_do_not_count() -> None:
    scaler = ScoreScaler()
    scaler.scale(exact([1.0, math.nan, 3.0, math.inf]))
    assert (scaler.count, scaler.mean, scaler.std) == (2, 2.0, 1.0)
    assert scaler.scale(exact([math.nan])).isnan().all()


def test_both_states_survive_json() -> None:
    first, second = ScoreScaler(), ScoreScaler()
    first.scale(doubles(5))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    scores = doubles(4)
    assert torch.equal(first.scale(scores), second.scale(scores))
    steady, resumed = AdaptiveKLController(0.3), AdaptiveKLController(0.9)
    resumed.load_state_dict(json.loads(json.dumps(steady.state_dict())))
    assert steady.update(7.0, 64) == resumed.update(7.0, 64)
