"""Spans: offsets, owners, positions, selection and concatenation."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.spans import Spans

ragged = st.lists(st.integers(1, 512), max_size=6)
quick = settings(deadline=None, max_examples=40, derandomize=True, database=None)


def test_literal() -> None:
    spans = Spans.from_lengths([2, 1, 3])
    assert spans.offsets.tolist() == [0, 2, 3, 6]
    assert spans.offsets.dtype == torch.int64
    assert spans.lengths.tolist() == [2, 1, 3]
    assert (spans.num_tokens, spans.max_len, len(spans)) == (6, 3, 3)
    assert spans.segment_ids.tolist() == [0, 0, 1, 2, 2, 2]
    assert spans.positions.tolist() == [0, 1, 0, 0, 1, 2]


def test_select_and_token_indices_literal() -> None:
    spans = Spans.from_lengths(torch.tensor([2, 1, 3], dtype=torch.int32))
    assert spans.select([2, 0]).lengths.tolist() == [3, 2]
    assert spans.token_indices([2, 0]).tolist() == [3, 4, 5, 0, 1]
    keep = torch.tensor([True, False, True])
    assert spans.select(keep).lengths.tolist() == [2, 3]
    assert spans.token_indices(keep).tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("lengths", [[], torch.zeros(0, dtype=torch.int64)])
def test_no_spans(lengths: list[int] | torch.Tensor) -> None:
    spans = Spans.from_lengths(lengths)
    assert spans.offsets.tolist() == [0]
    assert (len(spans), spans.num_tokens, spans.max_len) == (0, 0, 0)
    for tensor in (spans.lengths, spans.segment_ids, spans.positions, spans.token_indices([])):
        assert tensor.shape == (0,)
        assert tensor.dtype == torch.int64
    assert len(Spans.concatenate([])) == 0
    assert Spans.concatenate([spans, Spans.from_lengths([2])]).offsets.tolist() == [0, 2]
    assert len(Spans.from_lengths([4]).select([])) == 0


@pytest.mark.parametrize("lengths", [[2, 0], [-1], [1.5], torch.ones(2, 2)])
def test_refused_lengths(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="(?s)lengths: got .*each at least 1"):
        Spans.from_lengths(lengths)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Spans.from_lengths([1]).offsets = torch.zeros(2)  # type: ignore[misc]


def test_to_moves_the_offsets() -> None:
    assert Spans.from_lengths([2, 1]).to("meta").offsets.device.type == "meta"
    assert Spans.from_lengths([2, 1]).to("cpu").lengths.tolist() == [2, 1]


@quick
@given(ragged, st.randoms(use_true_random=False))
def test_selection_is_what_a_loop_picks(lengths: list[int], random) -> None:  # noqa: ANN001
    spans = Spans.from_lengths(lengths)
    order = random.choices(range(len(lengths)), k=len(lengths)) if lengths else []
    flat = [(b, t) for b, length in enumerate(lengths) for t in range(length)]
    assert list(zip(spans.segment_ids.tolist(), spans.positions.tolist(), strict=True)) == flat
    picked = [flat[i] for i in spans.token_indices(order).tolist()]
    assert picked == [(b, t) for b in order for t in range(lengths[b])]
    assert spans.select(order).lengths.tolist() == [lengths[b] for b in order]


@quick
@given(st.lists(ragged, max_size=4))
def test_concatenation_is_the_spans_of_all(parts: list[list[int]]) -> None:
    joined = Spans.concatenate([Spans.from_lengths(lengths) for lengths in parts])
    assert joined.lengths.tolist() == [length for lengths in parts for length in lengths]


def test_equal_lengths() -> None:
    assert Spans.from_lengths([3, 3]).equal_lengths and Spans.from_lengths([]).equal_lengths
    assert not Spans.from_lengths([3, 2]).equal_lengths
