"""Rewards per token: literals."""

import pytest
import torch

from rlhf.functional import missing_eos_scores, per_token_rewards
from rlhf.spans import Spans


def test_per_token_rewards_literal() -> None:
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
