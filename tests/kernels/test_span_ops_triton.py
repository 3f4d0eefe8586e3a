"""The span kernels in Triton against those in PyTorch, over awkward lengths and every dtype."""

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from rlhf.kernels import span_ops
from rlhf.spans import Spans
from tests.support import oracles

pytest.importorskip("triton")
from rlhf.kernels import span_ops_triton as kernels  # noqa: E402

SUMS = {  # |error| against the sum of absolute values: some roundings of its float32 additions
    torch.float32: 1e-6,
    torch.bfloat16: 1e-6,  # the inputs are exact in float32, and so is all that follows
    torch.float16: 1e-6,
    torch.float64: 1e-14,
}
ROUNDED = {  # gradients come back in the dtype of the input: one rounding of theirs
    torch.float32: 1e-6,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
    torch.float64: 1e-14,
}


def agree(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal but for rounding, measured by the largest number at hand."""
    assert got.dtype == expected.dtype
    bound = tolerance * max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=bound)


def gradient(output: Tensor, leaf: Tensor, upstream: Tensor) -> Tensor:
    return torch.autograd.grad(output, leaf, upstream)[0]


@pytest.mark.parametrize(
    ("lengths", "dtype", "trailing"),
    [
        ([1], torch.float32, ()),
        ([41, 1, 7], torch.bfloat16, (3,)),
        ([1, 401, 2], torch.float16, ()),
        ([401, 41], torch.float64, (5,)),
        ([3, 41], torch.complex64, (2, 2)),
        ([5, 1], torch.bool, (3,)),
        ([1, 41], torch.int64, ()),
        ([2, 2], torch.uint8, (1, 2)),
    ],
)
def test_copies(
    device: str, lengths: list[int], dtype: torch.dtype, trailing: tuple[int, ...]
) -> None:
    spans = Spans.from_lengths(lengths)
    starts = torch.arange(len(spans)) % 3
    padded = torch.randn(len(spans), spans.max_len + 4, *trailing).mul(3).to(dtype)
    flat = torch.randn(spans.num_tokens, *trailing).mul(3).to(dtype)
    moved = padded.transpose(0, 1).contiguous().transpose(0, 1)  # the same, with gaps in memory
    for source in (padded, moved):
        got = kernels.gather_spans(source, starts, spans)
        assert torch.equal(got, span_ops.gather_spans(padded, starts, spans))
    for width in (None, spans.max_len + 3):
        got = kernels.scatter_spans(flat, spans, width, fill=1)
        assert torch.equal(got, span_ops.scatter_spans(flat, spans, width, fill=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_of_copies(device: str, dtype: torch.dtype) -> None:
    spans, starts = Spans.from_lengths([1, 41, 7]), torch.tensor([4, 0, 2])
    padded = torch.randn(3, 45, 2).to(dtype).requires_grad_()
    flat = torch.randn(49, 2).to(dtype).requires_grad_()
    up_flat, up_padded = torch.randn(49, 2).to(dtype), torch.randn(3, 43, 2).to(dtype)

    def gradients(module: ModuleType) -> list[Tensor]:
        gathered = module.gather_spans(padded, starts, spans)
        scattered = module.scatter_spans(flat, spans, 43)
        return [gradient(gathered, padded, up_flat), gradient(scattered, flat, up_padded)]

    for ours, theirs in zip(gradients(kernels), gradients(span_ops), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("lengths", "factor", "dtype"),
    [
        ([1, 41], 0.95, torch.float32),
        ([5000, 1, 3], 0.999, torch.float32),
        ([401, 1, 1030], [0.5, 1.0, 0.99], torch.bfloat16),
        ([41, 401], 1.0, torch.float16),
        ([1, 1], 0.0, torch.bfloat16),
        ([1100, 2], [0.9, 0.3], torch.float64),
    ],
)
def test_sums(
    device: str, lengths: list[int], factor: float | list[float], dtype: torch.dtype
) -> None:
    spans, flat = Spans.from_lengths(lengths), torch.randn(sum(lengths)).to(dtype)
    flat.requires_grad_()
    factors = torch.tensor(factor, dtype=torch.float64) if isinstance(factor, list) else factor
    for name, others in (("span_sum", ()), ("span_mean", ()), ("span_discounted_sum", (factors,))):
        got, expected = (
            getattr(module, name)(flat, spans, *others) for module in (kernels, span_ops)
        )
        agree(got, expected, 10 * SUMS[dtype])
        up = torch.randn_like(expected)
        agree(gradient(got, flat, up), gradient(expected, flat, up), 10 * ROUNDED[dtype])


def test_sums_agree_with_loops(device: str) -> None:
    lengths, factors = [1100, 1, 41], [0.99, 0.5, 1.0]
    spans, flat = Spans.from_lengths(lengths), torch.randn(1142)
    rows = oracles.split(flat.tolist(), lengths)
    sums = torch.tensor([math.fsum(row) for row in rows])
    agree(kernels.span_sum(flat, spans), sums, 1e-6)
    got = kernels.span_discounted_sum(flat, spans, torch.tensor(factors, dtype=torch.float64))
    discounted = [y for row in map(oracles.discounted_sum, rows, factors) for y in row]
    agree(got, torch.tensor(discounted), SUMS[torch.float32])


def test_nan_of_a_neighbour_stays_there(device: str) -> None:
    spans = Spans.from_lengths([20, 2000, 20])
    flat = torch.full((2040,), math.nan)
    flat[20:2020] = torch.randn(2000)
    single, single_span = flat[20:2020], Spans.from_lengths([2000])
    for name, arguments in (("span_sum", ()), ("span_discounted_sum", (0.9,))):
        kernel = getattr(kernels, name)
        batched = kernel(flat, spans, *arguments)
        middle = batched[20:2020] if len(batched) == 2040 else batched[[1]]
        assert torch.equal(middle, kernel(single, single_span, *arguments))
