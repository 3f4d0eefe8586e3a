"""The span kernels in Triton: signatures, results and errors of `rlhf.kernels.span_ops`."""

# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator, no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhf.kernels.dtypes import at_least_float32
from rlhf.kernels.span_ops import check_gather, checked_factor, checked_width
from rlhf.spans import Spans, check_rows

BLOCK = 1024  # elements a program holds at once
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes an element


@triton.jit
def _copy_spans_kernel(
    source,
    target,
    source_rows,
    target_rows,
    lengths,
    inner,
    blocks,
    BLOCK: tl.constexpr,
):
    span, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    index = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < tl.load(lengths + span) * inner
    run = tl.load(source + tl.load(source_rows + span) * inner + index, mask=mask)
    tl.store(target + tl.load(target_rows + span) * inner + index, run, mask=mask)


@triton.jit
def _segment_sum_kernel(flat, sums, firsts, lengths, BLOCK: tl.constexpr):
    span = tl.program_id(0)
    first, length = tl.load(firsts + span), tl.load(lengths + span)
    parts = tl.zeros([BLOCK], sums.dtype.element_ty)
    for start in range(0, length, BLOCK):
        index = start + tl.arange(0, BLOCK)
        parts += tl.load(flat + first + index, mask=index < length, other=0).to(parts.dtype)
    tl.store(sums + span, tl.sum(parts, 0))


@triton.jit
def _scan_combine(decay, total, next_decay, next_total):
    return decay * next_decay, next_decay * total + next_total


@triton.jit
def _discounted_sum_kernel(
    flat,
    sums,
    factors,
    firsts,
    lengths,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    span, lane = tl.program_id(0), tl.arange(0, BLOCK)
    first, length = tl.load(firsts + span), tl.load(lengths + span)
    decays = tl.zeros([BLOCK], tl.float64) + tl.load(factors + span)
    carry = tl.zeros([], tl.float64)
    for start in range(0, length, BLOCK):
        mask = start + lane < length
        at = first + STEP * (start + lane)
        terms = tl.load(flat + at, mask=mask, other=0).to(tl.float64)
        decay, total = tl.associative_scan((decays, terms), 0, _scan_combine)
        total += decay * carry
        tl.store(sums + at, total.to(sums.dtype.element_ty), mask=mask)
        carry = tl.sum(tl.where(lane == BLOCK - 1, total, 0), 0)


def _bits(tensor: Tensor) -> Tensor:
    """`tensor` as integers, so that a copy need not know its dtype; its own memory if gapless."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.contiguous().view(_BITS[tensor.element_size()])


def _copied(
    source: Tensor, target: Tensor, source_rows: Tensor, target_rows: Tensor, spans: Spans
) -> Tensor:
    """`target` with source[source_rows[b] + t] in row target_rows[b] + t of every span token.

    All dimensions after the rows are one, so that a span is one run of elements.
    """
    bits = _bits(source)
    inner = bits.numel() // max(1, len(bits))
    blocks = triton.cdiv(spans.max_len * inner, BLOCK)
    if blocks:
        _copy_spans_kernel[(len(spans) * blocks,)](
            bits, _bits(target), source_rows, target_rows, spans.lengths, inner, blocks, BLOCK
        )
    return target


class _Copy(torch.autograd.Function):
    """The spans' rows of `source` in a new tensor of `rows` rows; its gradient goes back."""

    @staticmethod
    def forward(
        ctx: Any,
        source: Tensor,
        source_rows: Tensor,
        target_rows: Tensor,
        spans: Spans,
        rows: int,
        fill: float | None,
    ) -> Tensor:
        ctx.save_for_backward(source_rows, target_rows)
        ctx.spans, ctx.rows, ctx.fill = spans, len(source), fill
        shape = (rows, *source.shape[1:])
        target = source.new_empty(shape) if fill is None else source.new_full(shape, fill)
        return _copied(source, target, source_rows, target_rows, spans)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        source_rows, target_rows = ctx.saved_tensors
        shape = (ctx.rows, *upstream.shape[1:])
        # Either every row of the target came from a span (no fill), or every row of the source.
        grad = upstream.new_zeros(shape) if ctx.fill is None else upstream.new_empty(shape)
        grad = _copied(upstream, grad, target_rows, source_rows, ctx.spans)
        return grad, None, None, None, None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, spans: Spans) -> Tensor:
        ctx.spans, ctx.dtype = spans, flat.dtype
        sums = flat.new_empty(len(spans), dtype=at_least_float32(flat[:0]).dtype)
        if len(spans):
            _segment_sum_kernel[(len(spans),)](
                flat.contiguous(), sums, spans.offsets, spans.lengths, BLOCK
            )
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return upstream[ctx.spans.segment_ids].to(ctx.dtype), None


def _scan(flat: Tensor, factors: Tensor, spans: Spans, step: int) -> Tensor:
    """Discounted sums to the end of each span (step -1: from there on) or to its start (step 1)."""
    sums = torch.empty_like(flat, dtype=at_least_float32(flat[:0]).dtype)
    firsts = spans.offsets[:-1] if step == 1 else spans.offsets[1:] - 1
    if len(spans):
        _discounted_sum_kernel[(len(spans),)](
            flat.contiguous(), sums, factors, firsts, spans.lengths, step, BLOCK
        )
    return sums


class _DiscountedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, factors: Tensor, spans: Spans) -> Tensor:
        ctx.save_for_backward(factors)
        ctx.spans, ctx.dtype = spans, flat.dtype
        return _scan(flat, factors, spans, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        (factors,) = ctx.saved_tensors
        return _scan(upstream, factors, ctx.spans, 1).to(ctx.dtype), None, None


def gather_spans(padded: Tensor, starts: Tensor | None, spans: Spans) -> Tensor:
    check_gather(padded, starts, spans)
    firsts = torch.arange(len(spans), device=padded.device) * padded.shape[1]
    if starts is not None:
        firsts = firsts + starts
    options = (firsts, spans.offsets, spans, spans.num_tokens, None)
    return _Copy.apply(padded.flatten(0, 1), *options)  # type: ignore[no-any-return, no-untyped-call]


def scatter_spans(flat: Tensor, spans: Spans, width: int | None = None, fill: float = 0) -> Tensor:
    width = checked_width(flat, spans, width)
    firsts = torch.arange(len(spans), device=flat.device) * width
    options = (spans.offsets, firsts, spans, len(spans) * width, fill)
    padded: Tensor = _Copy.apply(flat, *options)  # type: ignore[no-untyped-call]
    return padded.view(len(spans), width, *flat.shape[1:])


def span_sum(flat: Tensor, spans: Spans) -> Tensor:
    check_rows("flat", flat, spans.num_tokens)
    return _Sum.apply(flat, spans)  # type: ignore[no-any-return, no-untyped-call]


def span_mean(flat: Tensor, spans: Spans) -> Tensor:
    return span_sum(flat, spans) / spans.lengths


def span_discounted_sum(flat: Tensor, spans: Spans, factor: float | Tensor) -> Tensor:
    check_rows("flat", flat, spans.num_tokens)
    factors = flat.new_ones(len(spans), dtype=torch.float64) * checked_factor(factor, spans)
    return _DiscountedSum.apply(flat, factors, spans)  # type: ignore[no-any-return, no-untyped-call]
