"""Span operations in Triton, with the signatures and results of `rlhf.kernels.span_ops`."""

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

BLOCK = 1024  # elements per block of a program
_INT_DTYPES = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by element size


@triton.jit
def _copy_spans_kernel(
    source_ptr,
    target_ptr,
    source_rows_ptr,
    target_rows_ptr,
    lengths_ptr,
    row_size,
    blocks_per_span,
    BLOCK: tl.constexpr,
):
    """Copy the rows of a span, one block of elements per program."""
    span, block = tl.program_id(0) // blocks_per_span, tl.program_id(0) % blocks_per_span
    index = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < tl.load(lengths_ptr + span) * row_size
    source_start = tl.load(source_rows_ptr + span) * row_size
    target_start = tl.load(target_rows_ptr + span) * row_size
    elements = tl.load(source_ptr + source_start + index, mask=mask)
    tl.store(target_ptr + target_start + index, elements, mask=mask)


@triton.jit
def _segment_sum_kernel(flat_ptr, sums_ptr, starts_ptr, lengths_ptr, BLOCK: tl.constexpr):
    """Sum a span, one program per span."""
    span = tl.program_id(0)
    first, length = tl.load(starts_ptr + span), tl.load(lengths_ptr + span)
    partial = tl.zeros([BLOCK], sums_ptr.dtype.element_ty)
    for start in range(0, length, BLOCK):
        index = start + tl.arange(0, BLOCK)
        terms = tl.load(flat_ptr + first + index, mask=index < length, other=0)
        partial += terms.to(partial.dtype)
    tl.store(sums_ptr + span, tl.sum(partial, 0))


@triton.jit
def _scan_combine(decay, total, next_decay, next_total):
    """Compose two affine maps y ↦ decay·y + total."""
    return decay * next_decay, next_decay * total + next_total


@triton.jit
def _discounted_sum_kernel(
    flat_ptr,
    sums_ptr,
    factors_ptr,
    starts_ptr,
    lengths_ptr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Discounted prefix sums of a span in direction STEP (1 or -1), one program per span."""
    span, lane = tl.program_id(0), tl.arange(0, BLOCK)
    first, length = tl.load(starts_ptr + span), tl.load(lengths_ptr + span)
    decays = tl.zeros([BLOCK], tl.float64) + tl.load(factors_ptr + span)
    carry = tl.zeros([], tl.float64)
    for start in range(0, length, BLOCK):
        mask = start + lane < length
        index = first + STEP * (start + lane)
        terms = tl.load(flat_ptr + index, mask=mask, other=0).to(tl.float64)
        decay, total = tl.associative_scan((decays, terms), 0, _scan_combine)
        total += decay * carry
        tl.store(sums_ptr + index, total.to(sums_ptr.dtype.element_ty), mask=mask)
        carry = tl.sum(tl.where(lane == BLOCK - 1, total, 0), 0)


def _as_integers(tensor: Tensor) -> Tensor:
    """View a contiguous copy of `tensor` as integers, so that one kernel copies all dtypes."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.contiguous().view(_INT_DTYPES[tensor.element_size()])


def _copy_spans(
    source: Tensor, target: Tensor, source_rows: Tensor, target_rows: Tensor, spans: Spans
) -> Tensor:
    """Copy source[source_rows[b] + t] to target[target_rows[b] + t] for every token t of span b.

    Args:
        source: [rows, ...].
        target: [rows′, ...] of the same trailing shape, contiguous; written in place.
        source_rows: [B] int64, row of each span's first token in the source.
        target_rows: [B] int64, row of each span's first token in the target.
        spans: their lengths.

    Returns:
        The target.
    """
    source = _as_integers(source)
    row_size = source.numel() // max(1, len(source))
    blocks_per_span = triton.cdiv(spans.max_len * row_size, BLOCK)
    if blocks_per_span:
        _copy_spans_kernel[(len(spans) * blocks_per_span,)](
            source,
            _as_integers(target),
            source_rows,
            target_rows,
            spans.lengths,
            row_size,
            blocks_per_span,
            BLOCK,
        )
    return target


def _segment_sum(flat: Tensor, spans: Spans) -> Tensor:
    """Sum of each span, [B]."""
    sums = flat.new_empty(len(spans), dtype=at_least_float32(flat[:0]).dtype)
    if len(spans):
        _segment_sum_kernel[(len(spans),)](
            flat.contiguous(), sums, spans.offsets, spans.lengths, BLOCK
        )
    return sums


def _discounted_sum(flat: Tensor, factors: Tensor, spans: Spans, step: int) -> Tensor:
    """Discounted sums [N]: to the end of each span (step -1), or from its start (step 1)."""
    sums = torch.empty_like(flat, dtype=at_least_float32(flat[:0]).dtype)
    starts = spans.offsets[:-1] if step == 1 else spans.offsets[1:] - 1
    if len(spans):
        _discounted_sum_kernel[(len(spans),)](
            flat.contiguous(), sums, factors, starts, spans.lengths, step, BLOCK
        )
    return sums


class _CopySpans(torch.autograd.Function):
    """Copy the spans' rows of `source` into a new tensor of `rows` rows; backward copies back."""

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
        return _copy_spans(source, target, source_rows, target_rows, spans)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        source_rows, target_rows = ctx.saved_tensors
        shape = (ctx.rows, *grad_output.shape[1:])
        # gather (fill is None) leaves source rows unread, whose gradient is 0; scatter reads all.
        grad = grad_output.new_zeros(shape) if ctx.fill is None else grad_output.new_empty(shape)
        grad = _copy_spans(grad_output, grad, target_rows, source_rows, ctx.spans)
        return grad, None, None, None, None, None


class _SegmentSum(torch.autograd.Function):
    """Sum of each span; backward repeats its gradient over the span."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, spans: Spans) -> Tensor:
        ctx.spans, ctx.dtype = spans, flat.dtype
        return _segment_sum(flat, spans)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return grad_output[ctx.spans.segment_ids].to(ctx.dtype), None


class _DiscountedSum(torch.autograd.Function):
    """Discounted sums to the end of each span; backward scans in the other direction."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, factors: Tensor, spans: Spans) -> Tensor:
        ctx.save_for_backward(factors)
        ctx.spans, ctx.dtype = spans, flat.dtype
        return _discounted_sum(flat, factors, spans, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        (factors,) = ctx.saved_tensors
        return _discounted_sum(grad_output, factors, ctx.spans, 1).to(ctx.dtype), None, None


def gather_spans(padded: Tensor, starts: Tensor | None, spans: Spans) -> Tensor:
    """Gather one span of each padded row into a flat tensor, by Triton.

        out[offsets[b] + t] = padded[b, starts[b] + t]

    Args:
        padded: [B, S, ...], any dtype.
        starts: [B] int64, column of the first token of each row's span; None: column 0.
        spans: lengths of the B spans, N tokens.

    Returns:
        [N, ...], in the dtype of `padded`.

    Raises:
        ValueError: shapes disagree, or a span leaves its row.
    """
    check_gather(padded, starts, spans)
    source_rows = torch.arange(len(spans), device=padded.device) * padded.shape[1]
    if starts is not None:
        source_rows = source_rows + starts
    options = (source_rows, spans.offsets, spans, spans.num_tokens, None)
    return _CopySpans.apply(padded.flatten(0, 1), *options)  # type: ignore[no-any-return, no-untyped-call]


def scatter_spans(flat: Tensor, spans: Spans, width: int | None = None, fill: float = 0) -> Tensor:
    """Scatter the spans of a flat tensor into padded rows, left-aligned, by Triton.

    Args:
        flat: [N, ...], any dtype.
        spans: B spans of the N tokens.
        width: T, columns; None: the longest span.
        fill: value past the end of a span.

    Returns:
        [B, T, ...] with out[b, t] = flat[offsets[b] + t].

    Raises:
        ValueError: shapes disagree, or a span is longer than `width`.
    """
    width = checked_width(flat, spans, width)
    target_rows = torch.arange(len(spans), device=flat.device) * width
    options = (spans.offsets, target_rows, spans, len(spans) * width, fill)
    padded: Tensor = _CopySpans.apply(flat, *options)  # type: ignore[no-untyped-call]
    return padded.view(len(spans), width, *flat.shape[1:])


def span_sum(flat: Tensor, spans: Spans) -> Tensor:
    """Sum each span of `flat` [N], by Triton: [B], float32 or float64.

    Raises:
        ValueError: flat is not [N].
    """
    check_rows("flat", flat, spans.num_tokens)
    return _SegmentSum.apply(flat, spans)  # type: ignore[no-any-return, no-untyped-call]


def span_mean(flat: Tensor, spans: Spans) -> Tensor:
    """Average each span of `flat` [N], by Triton: [B], float32 or float64.

    Raises:
        ValueError: flat is not [N].
    """
    return span_sum(flat, spans) / spans.lengths


def span_discounted_sum(flat: Tensor, spans: Spans, factor: float | Tensor) -> Tensor:
    """Sum xₜ + c·xₜ₊₁ + c²·xₜ₊₂ + … to the end of each span, by Triton, in float64.

    Args:
        flat: x [N].
        spans: B spans of the N tokens.
        factor: c in [0, 1], a number or [B], one per span; no gradient reaches it.

    Returns:
        [N], float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes disagree, or the factor is outside [0, 1].
    """
    check_rows("flat", flat, spans.num_tokens)
    factors = flat.new_ones(len(spans), dtype=torch.float64) * checked_factor(factor, spans)
    return _DiscountedSum.apply(flat, factors, spans)  # type: ignore[no-any-return, no-untyped-call]
