"""KL estimates, where each may stand, and the adaptive coefficient: literals and known limits."""

import json
import math

import pytest
import torch

from rlhf.functional import AdaptiveKLController, check_kl_choice, kl_estimate
from tests.support.float64 import EXACT, exact


def test_kl_literals() -> None:
    logprobs, reference = exact([0.5, 0.25]).log(), exact([0.25, 0.5]).log()
    k1 = kl_estimate(logprobs, reference)
    torch.testing.assert_close(k1, exact([math.log(2), -math.log(2)]), **EXACT)
    k2 = kl_estimate(logprobs, reference, "k2")
    torch.testing.assert_close(k2, exact([math.log(2) ** 2 / 2] * 2), **EXACT)
    k3 = kl_estimate(logprobs, reference, "k3")
    torch.testing.assert_close(k3, exact([math.log(2) - 0.5, 1 - math.log(2)]), **EXACT)
    with pytest.raises(ValueError, match="kind: got 'k4'"):
        kl_estimate(logprobs, reference, "k4")
    with pytest.raises(ValueError, match="ref_logprobs"):
        kl_estimate(logprobs, reference[:1])


def test_k1_and_k3_have_the_kl_for_their_mean() -> None:
    p, q = exact([0.5, 0.3, 0.2]), exact([0.2, 0.3, 0.5])
    divergence = 0.3 * math.log(2.5)
    for kind in ("k1", "k3"):
        mean = (p * kl_estimate(p.log(), q.log(), kind)).sum().item()
        assert mean == pytest.approx(divergence, abs=1e-12)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "abs", "clamp", "exact", "k4"])
@pytest.mark.parametrize("placement", ["reward", "loss", "nowhere"])
def test_only_the_sound_kl_penalties_are_accepted(placement: str, kind: str) -> None:
    if (placement, kind) in {("reward", "k1"), ("loss", "k2"), ("loss", "exact")}:
        check_kl_choice(placement, kind)
        return
    is_known = placement != "nowhere" and kind != "k4"
    message = r"bandit it ends 0.\d+|has no effect" if is_known else "no such choice"
    with pytest.raises(
        ValueError, match=f"{kind} in the {placement}: .*({message}).*; wanted k1 in"
    ):
        check_kl_choice(placement, kind)


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


def test_the_kl_coefficient_survives_json() -> None:
    steady, resumed = AdaptiveKLController(0.3), AdaptiveKLController(0.9)
    resumed.load_state_dict(json.loads(json.dumps(steady.state_dict())))
    assert steady.update(7.0, 64) == resumed.update(7.0, 64)
