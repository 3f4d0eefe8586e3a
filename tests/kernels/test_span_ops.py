"""The span kernels, in PyTorch and in Triton, against literals, loops and numerical gradients."""

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.kernels import (
    add_at_span_end,
    gather_spans,
    later_in_span,
    scatter_spans,
    span_discounted_sum,
    span_mean,
    span_sum,
)
from rlhf.spans import Spans
from tests.support import oracles
from tests.support.float64 import EXACT, exact, quick, ragged, random_float64, unit

LENGTHS = [2, 1, 3]

# --- gather and scatter


def test_gather_literal(kernels: ModuleType) -> None:
    padded, starts = torch.arange(12).view(3, 4), torch.tensor([2, 0, 1])
    gathered = kernels.gather_spans(padded, starts, Spans.from_lengths(LENGTHS))
    assert gathered.tolist() == [2, 3, 4, 9, 10, 11]


def test_scatter_literal(kernels: ModuleType) -> None:
    flat, spans = torch.tensor([1, 2, 3, 4, 5, 6]), Spans.from_lengths(LENGTHS)
    expected = [[1, 2, 9, 9], [3, 9, 9, 9], [4, 5, 6, 9]]
    assert kernels.scatter_spans(flat, spans, width=4, fill=9).tolist() == expected
    assert kernels.scatter_spans(flat, spans).tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]


@quick
@given(ragged, st.integers(0, 7))
def test_gather_undoes_scatter(lengths: list[int], extra: int) -> None:
    spans = Spans.from_lengths(lengths)
    flat = random_float64(spans.num_tokens, 2)
    padded = scatter_spans(flat, spans, width=spans.max_len + extra, fill=math.nan)
    starts = torch.zeros(len(spans), dtype=torch.int64)
    assert torch.equal(gather_spans(padded, starts, spans), flat)
    assert int(padded.isnan().sum()) == 2 * (padded[..., 0].numel() - spans.num_tokens)
    shifted = torch.nn.functional.pad(padded, (0, 0, 3, 0), value=math.nan)
    assert torch.equal(gather_spans(shifted, starts + 3, spans), flat)


def test_nan_outside_the_spans_stays_outside(kernels: ModuleType) -> None:
    starts = torch.tensor([2, 0, 1])
    padded = torch.full((3, 4, 2), math.nan)
    padded[0, 2:], padded[1, :1], padded[2, 1:] = 1.0, 1.0, 1.0
    inside = ~padded.isnan()
    padded.requires_grad_()
    gathered = kernels.gather_spans(padded, starts, Spans.from_lengths(LENGTHS))
    assert bool((gathered == 1).all())
    gathered.square().sum().backward()
    assert padded.grad is not None
    assert torch.equal(padded.grad, torch.where(inside, 2.0, 0.0))


def test_nan_in_the_padding_gradient_stays_outside(kernels: ModuleType) -> None:
    flat = torch.ones(6, requires_grad=True)
    kernels.scatter_spans(flat, Spans.from_lengths(LENGTHS)).backward(
        torch.tensor([[1, 2, math.nan], [3, math.nan, math.nan], [4, 5, 6]])
    )
    assert flat.grad is not None
    assert flat.grad.tolist() == [1, 2, 3, 4, 5, 6]


def test_gather_and_scatter_gradients(kernels: ModuleType) -> None:
    starts, spans = torch.tensor([2, 0, 1]), Spans.from_lengths(LENGTHS)
    assert torch.autograd.gradcheck(
        lambda padded: kernels.gather_spans(padded, starts, spans),
        random_float64(3, 4, 2, grad=True),
    )
    assert torch.autograd.gradcheck(
        lambda flat: kernels.scatter_spans(flat, spans, 4, fill=7.0),
        random_float64(6, 2, grad=True),
    )


@pytest.mark.parametrize("starts", [[3, 0, 1], [2, 0, 2], [2, -1, 1], [2, 0]])
def test_gather_refuses_spans_outside_their_row(kernels: ModuleType, starts: list[int]) -> None:
    with pytest.raises(ValueError, match="starts: got"):
        kernels.gather_spans(torch.zeros(3, 4), torch.tensor(starts), Spans.from_lengths(LENGTHS))


def test_wrong_sizes_are_refused(kernels: ModuleType) -> None:
    spans = Spans.from_lengths(LENGTHS)
    with pytest.raises(ValueError, match="width: got 2, wanted at least the longest span, 3"):
        kernels.scatter_spans(torch.zeros(6), spans, width=2)
    with pytest.raises(ValueError, match=r"flat: got shape \[5\], wanted \[6, ...\]"):
        kernels.scatter_spans(torch.zeros(5), spans)
    with pytest.raises(ValueError, match=r"padded: got \[3\], wanted \[B, S, ...\]"):
        kernels.gather_spans(torch.zeros(3), None, spans)
    with pytest.raises(ValueError, match="padded: got 2 columns, wanted at least 3"):
        kernels.gather_spans(torch.zeros(3, 2), None, spans)
    with pytest.raises(ValueError, match="starts: got torch.float32, wanted whole numbers"):
        kernels.gather_spans(torch.zeros(3, 4), torch.zeros(3), spans)
    with pytest.raises(ValueError, match=r"padded: got shape \[2, 4\], wanted \[3, ...\]"):
        kernels.gather_spans(torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64), spans)
    for kernel in (kernels.span_sum, kernels.span_mean, later_in_span):
        with pytest.raises(ValueError, match=r"flat: got shape \[6, 1\], wanted \[6\]"):
            kernel(torch.zeros(6, 1), spans)
    with pytest.raises(ValueError, match=r"flat: got shape \[5\], wanted \[6\]"):
        kernels.span_discounted_sum(torch.zeros(5), spans, 0.5)
    with pytest.raises(ValueError, match=r"per_span: got shape \[1\], wanted \[3\]"):
        add_at_span_end(torch.zeros(6), torch.zeros(1), spans)


@pytest.mark.parametrize("bad_factor", [-0.1, 1.1, math.nan])
def test_a_factor_outside_0_to_1_is_refused(kernels: ModuleType, bad_factor: float) -> None:
    spans = Spans.from_lengths(LENGTHS)
    for factor in (bad_factor, torch.tensor([0.5, bad_factor, 0.5])):
        with pytest.raises(ValueError, match="factor: got .*, wanted 0 to 1"):
            kernels.span_discounted_sum(torch.zeros(6), spans, factor)
    with pytest.raises(ValueError, match=r"factor: got shape \[2\], wanted \[3\]"):
        kernels.span_discounted_sum(torch.zeros(6), spans, torch.tensor([0.5, 0.5]))


# --- sums inside spans


def test_span_literals(kernels: ModuleType) -> None:
    flat, spans = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), Spans.from_lengths(LENGTHS)
    assert kernels.span_sum(flat, spans).tolist() == [3, 3, 15]
    assert kernels.span_mean(flat, spans).tolist() == [1.5, 3, 5]
    assert kernels.span_discounted_sum(flat, spans, 0.5).tolist() == [2, 2, 3, 8, 8, 6]
    assert kernels.span_discounted_sum(flat, spans, 0.0).tolist() == flat.tolist()
    each = torch.tensor([1.0, 0.3, 0.5])
    assert kernels.span_discounted_sum(flat, spans, each).tolist() == [3, 2, 3, 8, 8, 6]
    assert flat.tolist() == [1, 2, 3, 4, 5, 6]


def test_literals_without_triton() -> None:
    flat, spans = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), Spans.from_lengths(LENGTHS)
    scores = torch.tensor([10.0, 20.0, 30.0])
    assert add_at_span_end(flat, scores, spans).tolist() == [1, 12, 23, 4, 5, 36]
    assert flat.tolist() == [1, 2, 3, 4, 5, 6]
    assert later_in_span(flat, spans).tolist() == [2, 0, 0, 5, 6, 0]
    assert later_in_span(flat, spans, 2).tolist() == [0, 0, 0, 6, 0, 0]


@quick
@given(st.lists(st.tuples(st.integers(1, 90), unit), min_size=1, max_size=6))
def test_sums_agree_with_loops(drawn: list[tuple[int, float]]) -> None:
    lengths = [length for length, _ in drawn]
    spans, flat = Spans.from_lengths(lengths), random_float64(sum(lengths))
    rows = oracles.split(flat.tolist(), lengths)
    sums = exact([math.fsum(row) for row in rows])
    torch.testing.assert_close(span_sum(flat, spans), sums, **EXACT)
    torch.testing.assert_close(span_mean(flat, spans) * spans.lengths, sums, **EXACT)
    for factors in ([factor for _, factor in drawn], [drawn[0][1]] * len(drawn)):
        discounted = map(oracles.discounted_sum, rows, factors)
        got = span_discounted_sum(flat, spans, exact(factors))
        torch.testing.assert_close(
            got, exact([y for span_sums in discounted for y in span_sums]), **EXACT
        )
    assert torch.equal(span_discounted_sum(flat, spans, drawn[0][1]), got)


@quick
@given(ragged)
def test_the_sum_of_a_span_does_not_depend_on_its_neighbours(lengths: list[int]) -> None:
    spans, single_span = Spans.from_lengths([*lengths, 77, *lengths]), Spans.from_lengths([77])
    flat = torch.full((spans.num_tokens,), math.nan)
    indices = spans.token_indices([len(lengths)])
    flat[indices] = torch.randn(77)
    single, factors = flat[indices], torch.rand(len(spans))
    for factor in (0.9, factors):
        single_factor = factor if isinstance(factor, float) else factor[[len(lengths)]]
        batched = span_discounted_sum(flat, spans, factor)[indices]
        assert torch.equal(batched, span_discounted_sum(single, single_span, single_factor))
    assert torch.equal(span_sum(flat, spans)[[len(lengths)]], span_sum(single, single_span))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(kernels: ModuleType, dtype: torch.dtype) -> None:
    spans, ones = Spans.from_lengths([3001, 2]), torch.ones(3003, dtype=dtype)
    assert kernels.span_sum(ones, spans).tolist() == [3001, 2]  # 3001 is no bfloat16, no float16
    assert kernels.span_mean(ones, spans).tolist() == [1, 1]
    assert kernels.span_sum(ones, spans).dtype == torch.float32
    assert add_at_span_end(ones, torch.tensor([3000.0, 0.0]), spans)[3000] == 3001
    ends = torch.tensor([256.0, 0.0], dtype=dtype)
    assert add_at_span_end(ones[:3], ends, Spans.from_lengths([2, 1]))[1] == 257  # no bfloat16
    sums = kernels.span_discounted_sum(ones, spans, 1.0)
    assert sums[[0, 3001]].tolist() == [3001, 2]
    assert sums.dtype == torch.float32


def test_span_gradients(kernels: ModuleType) -> None:
    spans, flat = Spans.from_lengths(LENGTHS), random_float64(6, grad=True)
    for kernel in (kernels.span_sum, kernels.span_mean):
        assert torch.autograd.gradcheck(lambda x, k=kernel: k(x, spans), flat)
    for factor in (0.7, torch.tensor([0.3, 0.5, 0.9])):
        assert torch.autograd.gradcheck(
            lambda x, c=factor: kernels.span_discounted_sum(x, spans, c), flat
        )


def test_a_gradient_of_one_number_for_all(kernels: ModuleType) -> None:
    """`sum` sends back a tensor whose elements share their memory."""
    spans, flat = Spans.from_lengths([2, 1, 3]), torch.randn(6, requires_grad=True)
    kernels.span_discounted_sum(flat, spans, 0.5).sum().backward()
    assert flat.grad is not None
    assert flat.grad.tolist() == [1, 1.5, 1, 1, 1.5, 1.75]
    flat.grad = None
    kernels.scatter_spans(flat, spans).sum().backward()
    assert flat.grad.tolist() == [1] * 6  # type: ignore[attr-defined]


def test_a_flat_tensor_with_gaps(kernels: ModuleType) -> None:
    spans, flat = Spans.from_lengths([2, 1, 3]), torch.arange(12.0)[::2]
    assert kernels.span_sum(flat, spans).tolist() == [2, 4, 24]
    assert kernels.span_discounted_sum(flat, spans, 0.5).tolist() == [1, 2, 4, 12.5, 13, 10]
    assert kernels.scatter_spans(flat, spans).tolist() == [[0, 2, 0], [4, 0, 0], [6, 8, 10]]


def test_gradients_without_triton() -> None:
    spans, flat, scores = (
        Spans.from_lengths(LENGTHS),
        random_float64(6, grad=True),
        random_float64(3, grad=True),
    )
    assert torch.autograd.gradcheck(lambda x: later_in_span(x, spans), flat)
    assert torch.autograd.gradcheck(lambda x, s: add_at_span_end(x, s, spans), (flat, scores))


def test_no_gradient_reaches_the_factor(kernels: ModuleType) -> None:
    factor = torch.tensor([0.3, 0.5, 0.9], requires_grad=True)
    sums = kernels.span_discounted_sum(torch.ones(6), Spans.from_lengths(LENGTHS), factor)
    assert not sums.requires_grad


def test_no_spans_at_all(kernels: ModuleType) -> None:
    no_spans, empty = Spans.from_lengths([]), torch.zeros(0)
    assert kernels.gather_spans(torch.zeros(0, 5, 2), no_spans.lengths, no_spans).shape == (0, 2)
    assert kernels.scatter_spans(empty, no_spans).shape == (0, 0)
    assert kernels.scatter_spans(empty, no_spans, width=4).shape == (0, 4)
    for kernel in (kernels.span_sum, kernels.span_mean, later_in_span):
        assert kernel(empty, no_spans).shape == (0,)
    for factor in (0.5, empty):
        assert kernels.span_discounted_sum(empty, no_spans, factor).shape == (0,)
    assert add_at_span_end(empty, empty, no_spans).shape == (0,)


def test_gathering_from_column_0_undoes_scattering(kernels: ModuleType) -> None:
    spans, flat = Spans.from_lengths(LENGTHS), torch.randn(sum(LENGTHS), 2)
    padded = kernels.scatter_spans(flat, spans, width=5, fill=float("nan"))
    assert torch.equal(kernels.gather_spans(padded, None, spans), flat)
