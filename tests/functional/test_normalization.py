"""Statistics of a batch and the running scale: literals, and state that survives a checkpoint."""

import json
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.functional import ScoreScaler, whiten
from tests.support.float64 import exact, quick, random_float64


def test_whiten_literals() -> None:
    values = torch.tensor([2.0, 6.0])
    assert whiten(values).tolist() == [-1.0, 1.0]
    assert whiten(values, min_std=4.0).tolist() == [-0.5, 0.5]
    assert whiten(values, min_std=1.0).tolist() == [-1.0, 1.0]
    assert whiten(torch.tensor([7.0])).tolist() == [0.0]
    assert whiten(torch.full((1001,), 5.3)).tolist() == [0.0] * 1001
    assert whiten(torch.zeros(0).bfloat16()).dtype == torch.float32
    assert whiten(torch.zeros(0)).shape == (0,)
    assert whiten(values.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="min_std: got 0"):
        whiten(values, min_std=0.0)


@quick
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_the_scale_is_the_standard_deviation_of_everything_seen(sizes: list[int]) -> None:
    scaler, all_scores = ScoreScaler(), []
    for size in sizes:
        scores = 3 * random_float64(size) + 100
        all_scores += scores.tolist()
        got = scaler.scale(scores)
        std = statistics.pstdev(all_scores) if len(all_scores) > 1 else 1.0
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


def test_the_scale_survives_json() -> None:
    first, second = ScoreScaler(), ScoreScaler()
    first.scale(random_float64(5))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    scores = random_float64(4)
    assert torch.equal(first.scale(scores), second.scale(scores))
