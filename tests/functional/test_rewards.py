"""KL estimates and rewards per token: literals and expectations."""

import math

import pytest
import torch

from rlhf.functional import (
    check_kl_choice,
    kl_estimate,
    missing_eos_scores,
    per_token_rewards,
)
from rlhf.spans import Spans
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
    known = placement != "nowhere" and kind != "k4"
    why = r"bandit ends 0.\d+|moves none" if known else "no such choice"
    with pytest.raises(ValueError, match=f"{kind} in the {placement}: .*({why}).*; wanted k1 in"):
        check_kl_choice(placement, kind)


def test_shape_rewards_literal() -> None:
    spans = Spans.from_lengths([2, 1])
    kl = torch.tensor([1.0, -2.0, 4.0])
    got = per_token_rewards(torch.tensor([10.0, 20.0]), kl, spans, kl_coef=0.5)
    assert got.tolist() == [-0.5, 11.0, 18.0]
    assert kl.tolist() == [1.0, -2.0, 4.0]
    with pytest.raises(ValueError, match="kl_coef: got -1"):
        per_token_rewards(torch.zeros(2), kl, spans, kl_coef=-1.0)
    with pytest.raises(ValueError, match=r"scores: got shape \[3\], wanted \[2\]"):
        per_token_rewards(kl, kl, spans, kl_coef=0.1)
    with pytest.raises(ValueError, match=r"kl: got shape \[2\], wanted \[3\]"):
        per_token_rewards(kl[:2], kl[:2], spans, kl_coef=0.1)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", [3.0, 4.0]),
        ("penalty", [3.0, 2.5]),
        ("replace", [3.0, -1.5]),
        ("bootstrap", [3.0, 4.0]),
    ],
)
def test_missing_eos_literals(mode: str, expected: list[float]) -> None:
    scores, finished = torch.tensor([3.0, 4.0]), torch.tensor([True, False])
    assert missing_eos_scores(scores, finished, mode=mode, penalty=1.5).tolist() == expected
    assert scores.tolist() == [3.0, 4.0]


def test_missing_eos_refuses() -> None:
    scores, finished = torch.zeros(2), torch.tensor([True, False])
    with pytest.raises(ValueError, match="mode: got 'drop'"):
        missing_eos_scores(scores, finished, mode="drop", penalty=1.0)
    with pytest.raises(ValueError, match="penalty: got -1"):
        missing_eos_scores(scores, finished, mode="penalty", penalty=-1.0)
    with pytest.raises(ValueError, match="finished: got torch.int64"):
        missing_eos_scores(scores, finished.long(), mode="none", penalty=1.0)
    with pytest.raises(ValueError, match="finished"):
        missing_eos_scores(scores, finished[:1], mode="none", penalty=1.0)
