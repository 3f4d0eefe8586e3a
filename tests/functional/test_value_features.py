"""Value features: literals, a float64 loop, and what they must not depend on."""

import json
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.functional import VALUE_FEATURES, ValueFeatures, ValueFeatureScaler, value_features
from rlhf.spans import Spans
from tests.support.float64 import EXACT, exact, quick, random_float64

Numbers = list[list[float]]
# Three responses to a prompt, of three tokens and one each, and one to a prompt of its own.
LENGTHS, GROUPS = [3, 1, 1, 2], [5, 5, 5, 8]
OLD_LOGPROBS = [-1.0, -5.0, -0.5, -2.0, -3.5, -0.25, -0.75]
REF_LOGPROBS = [-2.0, -0.25, -4.0, -1.0, -1.5, -6.0, -1.0]
RETURNS = [1.0, 2.0, 6.0, 9.0]
EARLIER = [0.5, math.nan, -0.5, 2.0]


def features_of(old: Tensor, ref: Tensor, returns: Tensor) -> ValueFeatures:
    spans = Spans.from_lengths(LENGTHS)
    return value_features(old, ref, returns, spans, torch.tensor(GROUPS), exact(EARLIER))


def literal() -> ValueFeatures:
    return features_of(exact(OLD_LOGPROBS), exact(REF_LOGPROBS), exact(RETURNS))


def test_the_columns_are_named_in_order() -> None:
    names = ("logprobs", "ref_logprobs", "position", "other_returns", "earlier_returns")
    assert names == VALUE_FEATURES


def test_literals_before_each_token() -> None:
    """Of the first response -1, -5 → -3, -0.5; the means of the others are 4, 3.5 and 1.5."""
    tokens = literal().tokens
    assert tokens[:, :3].tolist() == [
        [0.0, 0.0, 0.0],
        [-1.0, -2.0, 1.0],
        [-4.0, -2.25, 2.0],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [-0.25, -3.0, 1.0],
    ]
    assert tokens[:5, 3].tolist() == [4.0, 4.0, 4.0, 3.5, 1.5]
    assert tokens[5:, 3].isnan().all()
    assert tokens[:, 4].nan_to_num(7.0).tolist() == [0.5, 0.5, 0.5, 7.0, -0.5, 2.0, 2.0]


def test_literals_after_the_last_token() -> None:
    ends = literal().ends
    assert ends[:3, :4].tolist() == [
        [-4.5, -5.25, 3.0, 4.0],
        [-2.0, -1.0, 1.0, 3.5],
        [-3.0, -1.5, 1.0, 1.5],
    ]
    assert ends[3, :3].tolist() == [-1.0, -4.0, 2.0] and ends[3, 3].isnan()


def before(values: list[float]) -> list[float]:
    """Sums of the earlier values, each at least -3, and the sum of all."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + max(value, -3.0))
    return sums


def loop(old: Tensor, ref: Tensor, returns: Tensor, lengths: list[int], groups: list[int]):  # noqa: ANN201
    """The features by a loop over responses and tokens."""
    tokens: Numbers = []
    ends: Numbers = []
    for b, (one, other) in enumerate(zip(old.split(lengths), ref.split(lengths), strict=True)):
        same_prompt = [j for j in range(len(groups)) if groups[j] == groups[b] and j != b]
        mean = statistics.fmean(returns[j].item() for j in same_prompt) if same_prompt else math.nan
        sums, ref_sums = before(one.tolist()), before(other.tolist())
        rows = [[sums[t], ref_sums[t], float(t), mean, b / 2] for t in range(lengths[b] + 1)]
        tokens += rows[:-1]
        ends.append(rows[-1])
    return torch.tensor(tokens, dtype=torch.float64), torch.tensor(ends, dtype=torch.float64)


@quick
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=8))
def test_features_are_those_of_a_loop(responses: list[tuple[int, int]]) -> None:
    lengths, groups = ([*part] for part in zip(*responses, strict=True))
    count = sum(lengths)
    old, ref = -random_float64(count).square() * 2, -random_float64(count).square() * 2
    returns, spans = random_float64(len(lengths)), Spans.from_lengths(lengths)
    earlier = torch.arange(len(lengths)) / 2
    got = value_features(old, ref, returns, spans, torch.tensor(groups), earlier)
    for part, numbers in zip(got, loop(old, ref, returns, lengths, groups), strict=True):
        torch.testing.assert_close(part, numbers, **EXACT, equal_nan=True)
    assert got.tokens.dtype == got.ends.dtype == torch.float64


@pytest.mark.parametrize("token", range(7))
def test_no_feature_depends_on_a_token_from_its_own_on_or_on_the_own_return(token: int) -> None:
    """Else a baseline made of it would bias the policy gradient."""
    old, ref, returns = exact(OLD_LOGPROBS), exact(REF_LOGPROBS), exact(RETURNS)
    spans = Spans.from_lengths(LENGTHS)
    response = int(spans.segment_ids[token])
    old[token:], ref[token:] = -2.75, -1.25
    returns[response] = -32.0
    got, expected = features_of(old, ref, returns).tokens[token], literal().tokens[token]
    assert torch.equal(got.nan_to_num(0.5), expected.nan_to_num(0.5))


def test_shapes_must_agree() -> None:
    spans, groups = Spans.from_lengths([2, 1]), torch.tensor([0, 0])
    earlier = torch.zeros(2)
    with pytest.raises(ValueError, match="old_logprobs: got shape"):
        value_features(torch.zeros(4), torch.zeros(4), torch.zeros(2), spans, groups, earlier)
    with pytest.raises(ValueError, match="old_logprobs, ref_logprobs: got shapes"):
        value_features(torch.zeros(3), torch.zeros(2), torch.zeros(2), spans, groups, earlier)
    with pytest.raises(ValueError, match="scores: got shape"):
        value_features(torch.zeros(3), torch.zeros(3), torch.zeros(3), spans, groups, earlier)


def rows(*numbers: list[float]) -> ValueFeatures:
    """Features whose last column is never known."""
    tokens = exact([[*row, NAN] for row in numbers])  # type: ignore[list-item]
    return ValueFeatures(tokens, tokens[:1])


NAN = math.nan
FIRST = rows([0.0, 1.0, 5.0, NAN], [2.0, 1.0, 7.0, 3.0], [4.0, 1.0, 9.0, 7.0])


def test_standardized_literals() -> None:
    """Means 2, -, 7, 5 and variances 8/3, 0, 8/3, 4; what is not known is 0."""
    scaled = ValueFeatureScaler().scale(FIRST)
    one = 2 / math.sqrt(8 / 3)
    expected = torch.tensor([[-one, 0, -one, 0, 0], [0, 0, 0, -1, 0], [one, 0, one, 1, 0]])
    torch.testing.assert_close(scaled.tokens, expected)
    torch.testing.assert_close(scaled.ends, expected[:1])
    assert scaled.tokens.dtype == scaled.ends.dtype == torch.float32


def test_the_first_rollout_in_which_a_feature_varies_fixes_its_statistics() -> None:
    """The second feature is constant at first; later it has mean 17 and deviation 16."""
    scaler = ValueFeatureScaler()
    scaler.scale(FIRST)
    again = scaler.scale(rows([2.0, 1.0, 7.0, 5.0], [2.0, 33.0, 7.0, 9.0])).tokens
    assert again.tolist() == [[0.0, -1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 2.0, 0.0]]
    third = scaler.scale(rows([2.0, 49.0, 7.0, 5.0])).tokens
    assert third.tolist() == [[0.0, 2.0, 0.0, 0.0, 0.0]]


def test_features_that_are_not_chosen_are_0() -> None:
    scaled = ValueFeatureScaler(("position",)).scale(FIRST)
    assert scaled.tokens[:, 2].tolist() == ValueFeatureScaler().scale(FIRST).tokens[:, 2].tolist()
    assert not scaled.tokens[:, [0, 1, 3]].any() and not scaled.ends[:, [0, 1, 3]].any()
    assert not ValueFeatureScaler(()).scale(FIRST).tokens.any()


def test_a_feature_that_is_known_later_is_0_until_then() -> None:
    scaler = ValueFeatureScaler()
    unknown = scaler.scale(rows([0.0, 1.0, 5.0, NAN], [2.0, 1.0, 7.0, NAN])).tokens
    assert not unknown[:, 3].any()
    assert scaler.scale(FIRST).tokens[:, 3].tolist() == [0.0, -1.0, 1.0]


def test_the_statistics_survive_json_to_the_bit() -> None:
    features = ValueFeatures(random_float64(9, 5), random_float64(3, 5))
    saved, restored = ValueFeatureScaler(), ValueFeatureScaler()
    saved.scale(features)
    restored.load_state_dict(json.loads(json.dumps(saved.state_dict())))
    other = ValueFeatures(random_float64(9, 5), random_float64(3, 5))
    assert all(map(torch.equal, saved.scale(other), restored.scale(other)))
    fresh = ValueFeatureScaler()
    fresh.load_state_dict(json.loads(json.dumps(ValueFeatureScaler().state_dict())))
    assert all(map(torch.equal, fresh.scale(features), saved.scale(features)))
