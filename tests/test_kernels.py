"""The span kernels and token_logprobs against loops, identities and numerical gradients."""

import math

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf.kernels import (
    add_at_span_end,
    gather_spans,
    scatter_spans,
    span_discounted_sum,
    span_mean,
    span_sum,
    token_logprobs,
)
from rlhf.kernels.reference import later_in_span
from rlhf.spans import Spans

ragged = st.lists(st.integers(1, 512), min_size=1, max_size=6)
quick = settings(deadline=None, max_examples=25, derandomize=True, database=None)
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64: rounding of a few hundred sums
SINGLE = {"rtol": 1e-5, "atol": 2e-6}  # float32: rounding of one logit and its log-softmax
SPANS = Spans.from_lengths([2, 1, 3])


def doubles(*shape: int, grad: bool = False) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def exact(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# --- gather and scatter


def test_gather_literal() -> None:
    padded = torch.arange(12).view(3, 4)
    assert gather_spans(padded, torch.tensor([2, 0, 1]), SPANS).tolist() == [2, 3, 4, 9, 10, 11]


def test_scatter_literal() -> None:
    flat = torch.tensor([1, 2, 3, 4, 5, 6])
    expected = [[1, 2, 9, 9], [3, 9, 9, 9], [4, 5, 6, 9]]
    assert scatter_spans(flat, SPANS, width=4, fill=9).tolist() == expected
    assert scatter_spans(flat, SPANS).tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]


@quick
@given(ragged, st.integers(0, 7))
def test_gather_undoes_scatter(lengths: list[int], extra: int) -> None:
    spans = Spans.from_lengths(lengths)
    flat = doubles(spans.total, 2)
    padded = scatter_spans(flat, spans, width=spans.longest + extra, fill=math.nan)
    starts = torch.zeros(len(spans), dtype=torch.int64)
    assert torch.equal(gather_spans(padded, starts, spans), flat)
    assert int(padded.isnan().sum()) == 2 * (padded[..., 0].numel() - spans.total)
    shifted = torch.nn.functional.pad(padded, (0, 0, 3, 0), value=math.nan)
    assert torch.equal(gather_spans(shifted, starts + 3, spans), flat)


def test_nan_outside_the_spans_stays_outside() -> None:
    starts = torch.tensor([2, 0, 1])
    padded = torch.full((3, 4, 2), math.nan)
    padded[0, 2:], padded[1, :1], padded[2, 1:] = 1.0, 1.0, 1.0
    inside = ~padded.isnan()
    padded.requires_grad_()
    gathered = gather_spans(padded, starts, SPANS)
    assert bool((gathered == 1).all())
    gathered.square().sum().backward()
    assert padded.grad is not None
    assert torch.equal(padded.grad, torch.where(inside, 2.0, 0.0))


def test_nan_in_the_padding_gradient_stays_outside() -> None:
    flat = torch.ones(6, requires_grad=True)
    scatter_spans(flat, SPANS).backward(
        torch.tensor([[1, 2, math.nan], [3, math.nan, math.nan], [4, 5, 6]])
    )
    assert flat.grad is not None
    assert flat.grad.tolist() == [1, 2, 3, 4, 5, 6]


def test_gather_and_scatter_gradients() -> None:
    starts = torch.tensor([2, 0, 1])
    assert torch.autograd.gradcheck(
        lambda padded: gather_spans(padded, starts, SPANS), doubles(3, 4, 2, grad=True)
    )
    assert torch.autograd.gradcheck(
        lambda flat: scatter_spans(flat, SPANS, 4, fill=7.0), doubles(6, 2, grad=True)
    )


@pytest.mark.parametrize("starts", [[3, 0, 1], [2, 0, 2], [2, -1, 1], [2, 0]])
def test_gather_refuses_spans_outside_their_row(starts: list[int]) -> None:
    with pytest.raises(ValueError, match="starts: got"):
        gather_spans(torch.zeros(3, 4), torch.tensor(starts), SPANS)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="width: got 2, wanted at least the longest span, 3"):
        scatter_spans(torch.zeros(6), SPANS, width=2)
    with pytest.raises(ValueError, match=r"flat: got shape \[5\], wanted \[6, ...\]"):
        scatter_spans(torch.zeros(5), SPANS)
    with pytest.raises(ValueError, match=r"padded: got shape \[2, 4\], wanted \[3, ...\]"):
        gather_spans(torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64), SPANS)
    for kernel in (span_sum, span_mean, later_in_span):
        with pytest.raises(ValueError, match=r"flat: got shape \[6, 1\], wanted \[6\]"):
            kernel(torch.zeros(6, 1), SPANS)
    with pytest.raises(ValueError, match=r"per_span: got shape \[1\], wanted \[3\]"):
        add_at_span_end(torch.zeros(6), torch.zeros(1), SPANS)
    for factor in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="factor: got"):
            span_discounted_sum(torch.zeros(6), SPANS, factor)


# --- sums inside spans


def test_span_literals() -> None:
    flat = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    scores = torch.tensor([10.0, 20.0, 30.0])
    assert add_at_span_end(flat, scores, SPANS).tolist() == [1, 12, 23, 4, 5, 36]
    assert flat.tolist() == [1, 2, 3, 4, 5, 6]
    assert span_sum(flat, SPANS).tolist() == [3, 3, 15]
    assert span_mean(flat, SPANS).tolist() == [1.5, 3, 5]
    assert span_discounted_sum(flat, SPANS, 0.5).tolist() == [2, 2, 3, 8, 8, 6]
    assert span_discounted_sum(flat, SPANS, 0.0).tolist() == flat.tolist()
    assert later_in_span(flat, SPANS).tolist() == [2, 0, 0, 5, 6, 0]
    assert later_in_span(flat, SPANS, 2).tolist() == [0, 0, 0, 6, 0, 0]


@quick
@given(ragged, st.floats(0, 1))
def test_sums_agree_with_loops(lengths: list[int], factor: float) -> None:
    lengths = [min(length, 90) for length in lengths]
    spans, flat = Spans.from_lengths(lengths), doubles(sum(lengths))
    pieces = oracles.split(flat.tolist(), lengths)
    expected = [y for piece in pieces for y in oracles.discounted_sum(piece, factor)]
    torch.testing.assert_close(span_discounted_sum(flat, spans, factor), exact(expected), **EXACT)
    sums = exact([math.fsum(piece) for piece in pieces])
    torch.testing.assert_close(span_sum(flat, spans), sums, **EXACT)
    torch.testing.assert_close(span_mean(flat, spans) * spans.lengths, sums, **EXACT)


@quick
@given(ragged)
def test_a_span_does_not_feel_its_neighbours(lengths: list[int]) -> None:
    spans, own = Spans.from_lengths([*lengths, 77, *lengths]), Spans.from_lengths([77])
    flat = torch.full((spans.total,), math.nan)
    where = spans.token_indices([len(lengths)])
    flat[where] = torch.randn(77)
    alone = flat[where]
    assert torch.equal(
        span_discounted_sum(flat, spans, 0.9)[where], span_discounted_sum(alone, own, 0.9)
    )
    assert torch.equal(span_sum(flat, spans)[[len(lengths)]], span_sum(alone, own))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    spans, ones = Spans.from_lengths([3001, 2]), torch.ones(3003, dtype=dtype)
    assert span_sum(ones, spans).tolist() == [3001, 2]  # 3001 is no bfloat16 and no float16
    assert span_mean(ones, spans).tolist() == [1, 1]
    assert span_discounted_sum(ones, spans, 1.0)[[0, 3001]].tolist() == [3001, 2]
    assert span_sum(ones, spans).dtype == torch.float32
    assert add_at_span_end(ones, torch.tensor([3000.0, 0.0]), spans)[3000] == 3001


@pytest.mark.parametrize("kernel", [span_sum, span_mean, later_in_span])
def test_span_gradients(kernel) -> None:  # noqa: ANN001
    assert torch.autograd.gradcheck(lambda flat: kernel(flat, SPANS), doubles(6, grad=True))


def test_more_span_gradients() -> None:
    flat, scores = doubles(6, grad=True), doubles(3, grad=True)
    assert torch.autograd.gradcheck(lambda x: span_discounted_sum(x, SPANS, 0.7), flat)
    assert torch.autograd.gradcheck(lambda x, s: add_at_span_end(x, s, SPANS), (flat, scores))


def test_no_spans_at_all() -> None:
    none, empty = Spans.from_lengths([]), torch.zeros(0)
    assert gather_spans(torch.zeros(0, 5, 2), none.lengths, none).shape == (0, 2)
    assert scatter_spans(empty, none).shape == (0, 0)
    assert scatter_spans(empty, none, width=4).shape == (0, 4)
    for kernel in (span_sum, span_mean, later_in_span):
        assert kernel(empty, none).shape == (0,)
    assert span_discounted_sum(empty, none, 0.5).shape == (0,)
    assert add_at_span_end(empty, empty, none).shape == (0,)


# --- token_logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("banned", [[], [1, 4]])
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_token_logprobs_agree_with_plain_logarithms(
    temperature: float, banned: list[int], chunk: int | None
) -> None:
    hidden, weight = doubles(7, 3), doubles(6, 3)
    tokens = torch.tensor([0, 2, 3, 5, 0, 2, 5])
    got = token_logprobs(
        hidden, weight, tokens, temperature=temperature, banned_ids=banned, chunk_tokens=chunk
    )
    expected = oracles.token_logprobs(
        hidden.tolist(), weight.tolist(), tokens.tolist(), temperature, banned
    )
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, exact(theirs), **EXACT)


def test_token_logprobs_literal() -> None:
    """Odds 1 : 2 : 5, then 1 : 5 once the middle token is banned."""
    weight = torch.tensor([[1.0], [2.0], [5.0]]).log()
    hidden, tokens = torch.ones(1, 1), torch.tensor([2])
    logprob, entropy = token_logprobs(hidden, weight, tokens)
    assert logprob.item() == pytest.approx(math.log(5 / 8), abs=1e-6)
    halves = math.log(8) / 8 + math.log(4) / 4 + 5 / 8 * math.log(8 / 5)
    assert entropy.item() == pytest.approx(halves, abs=1e-6)
    logprob, entropy = token_logprobs(hidden, weight, tokens, banned_ids=(1,))
    assert logprob.item() == pytest.approx(math.log(5 / 6), abs=1e-6)
    only, certain = token_logprobs(hidden, weight, tokens, banned_ids=[0, 1])
    assert (only.item(), certain.item()) == (0, 0)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("banned", [None, [1, 4]])
def test_token_logprobs_gradients(chunk: int | None, banned: list[int] | None) -> None:
    tokens = torch.tensor([0, 2, 3, 5, 0])

    def both(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(
            hidden, weight, tokens, temperature=0.7, banned_ids=banned, chunk_tokens=chunk
        )

    hidden, weight = doubles(5, 3, grad=True), doubles(6, 3, grad=True)
    assert torch.autograd.gradcheck(both, (hidden, weight))
    for output in range(2):
        assert torch.autograd.gradcheck(lambda h, w, o=output: both(h, w)[o], (hidden, weight))

    def together(h: Tensor, w: Tensor) -> Tensor:
        logprobs, entropy = both(h, w)
        return 2 * logprobs - 3 * entropy

    assert torch.autograd.gradcheck(together, (hidden, weight))
    frozen = weight.detach()
    assert torch.autograd.gradcheck(lambda h: both(h, frozen), hidden)
    still = hidden.detach()
    assert torch.autograd.gradcheck(lambda w: both(still, w), weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_token_logprobs_in_float32_whatever_the_inputs(dtype: torch.dtype) -> None:
    hidden, weight = torch.randn(9, 16).to(dtype), torch.randn(50, 16).to(dtype)
    tokens, leaf = torch.randint(50, (9,)), hidden.clone().requires_grad_()
    logprobs, entropy = token_logprobs(leaf, weight.requires_grad_(), tokens, chunk_tokens=4)
    expected = oracles.token_logprobs(hidden.tolist(), weight.tolist(), tokens.tolist(), 1.0, [])
    for ours, theirs in zip((logprobs, entropy), expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, torch.tensor(theirs), **SINGLE)
    (logprobs.sum() + entropy.sum()).backward()
    assert leaf.grad is not None
    assert weight.grad is not None
    assert leaf.grad.dtype == weight.grad.dtype == dtype


def test_autocast_changes_nothing() -> None:
    hidden, weight = torch.randn(9, 16, requires_grad=True), torch.randn(50, 16)
    tokens = torch.randint(50, (9,))
    plain = token_logprobs(hidden, weight, tokens)[0]
    (expected,) = torch.autograd.grad(plain.sum(), hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = token_logprobs(hidden, weight, tokens)[0]
        (gradient,) = torch.autograd.grad(inside.sum(), hidden)
    assert torch.equal(inside, plain)
    assert torch.equal(gradient, expected)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements any operation returned."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


def test_the_full_logits_never_exist() -> None:
    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(100, 4)
    weight.requires_grad_()
    with LargestTensor() as seen:
        logprobs, entropy = token_logprobs(
            hidden, weight, torch.randint(100, (64,)), chunk_tokens=8
        )
        (logprobs.sum() + entropy.sum()).backward()
    assert seen.largest == 8 * 100


def test_one_bad_row_spoils_no_other() -> None:
    hidden = torch.randn(5, 3)
    hidden[2] = math.nan
    hidden.requires_grad_()
    logprobs, entropy = token_logprobs(hidden, torch.randn(6, 3), torch.zeros(5).long())
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    for tensor in (logprobs, entropy, hidden.grad.sum(1)):
        assert tensor.isnan().tolist() == [False, False, True, False, False]


def test_no_tokens() -> None:
    hidden, weight = torch.randn(0, 3, requires_grad=True), torch.randn(6, 3, requires_grad=True)
    logprobs, entropy = token_logprobs(hidden, weight, torch.zeros(0).long())
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        ([0, 1], {"banned_ids": [1]}, "tokens: got a banned id"),
        ([0, 6], {}, "tokens: got .* outside the 6 ids"),
        ([0, -1], {}, "tokens: got .* outside the 6 ids"),
        ([0, 1], {"banned_ids": [6]}, "outside the 6 ids"),
        ([0, 1], {"temperature": 0.0}, "temperature"),
        ([0, 1], {"chunk_tokens": 0}, "chunk_tokens"),
        ([0, 1, 2], {}, r"hidden, weight, tokens: got \[\[2, 3\], \[6, 3\], \[3\]\]"),
    ],
)
def test_token_logprobs_refuses(tokens: list[int], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_logprobs(torch.zeros(2, 3), torch.zeros(6, 3), torch.tensor(tokens), **options)
