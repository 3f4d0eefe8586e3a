"""Span operations in PyTorch, on any device, differentiable: the reference of the Triton kernels.

Reductions return float32, or float64 for float64. Shapes that disagree raise ValueError.
"""

import torch
from torch import Tensor

from rlhf.kernels.dtypes import at_least_float32
from rlhf.spans import Spans, check_rows


def check_gather(padded: Tensor, starts: Tensor | None, spans: Spans) -> None:
    """Check the arguments of `gather_spans`.

    Args:
        padded: [B, S, ...].
        starts: [B] int64, column of the first token of each row's span; None: column 0.
        spans: lengths of the B spans.

    Raises:
        ValueError: shapes disagree, or a span is not inside its row.
    """
    check_rows("padded", padded, len(spans), allow_trailing=True)
    if padded.dim() < 2:
        raise ValueError(f"padded: got {list(padded.shape)}, wanted [B, S, ...]")
    width = padded.shape[1]
    if starts is None:
        if spans.max_len > width:  # known on the host, so no device synchronization
            raise ValueError(f"padded: got {width} columns, wanted at least {spans.max_len}")
        return
    check_rows("starts", starts, len(spans))
    if starts.is_floating_point():
        raise ValueError(f"starts: got {starts.dtype}, wanted whole numbers")
    if bool(((starts < 0) | (starts + spans.lengths > width)).any()):
        raise ValueError(f"starts: got {starts.tolist()}, wanted every span inside {width} columns")


def checked_width(flat: Tensor, spans: Spans, width: int | None) -> int:
    """Check the arguments of `scatter_spans` and return the number of columns.

    Args:
        flat: [N, ...].
        spans: B spans of the N tokens.
        width: columns; None: the longest span.

    Raises:
        ValueError: shapes disagree, or a span is longer than `width`.
    """
    check_rows("flat", flat, spans.num_tokens, allow_trailing=True)
    width = spans.max_len if width is None else width
    if width < spans.max_len:
        raise ValueError(f"width: got {width}, wanted at least the longest span, {spans.max_len}")
    return width


def checked_factor(factor: float | Tensor, spans: Spans, name: str = "factor") -> float | Tensor:
    """Check a discount factor and return it detached, a tensor in float64.

    Args:
        factor: a number, or [B], one per span.
        spans: the B spans.
        name: name of the argument, for the message.

    Raises:
        ValueError: it is outside [0, 1] or NaN, or its shape is not [B].
    """
    if isinstance(factor, Tensor):
        check_rows(name, factor, len(spans))
        factor = factor.detach().double()
        if bool(((factor >= 0) & (factor <= 1)).all()):
            return factor
    elif 0 <= factor <= 1:
        return factor
    raise ValueError(f"{name}: got {factor}, wanted 0 to 1")


def gather_spans(padded: Tensor, starts: Tensor | None, spans: Spans) -> Tensor:
    """Gather one span of each padded row into a flat tensor; the padding is never read.

        out[offsets[b] + t] = padded[b, starts[b] + t]

    Args:
        padded: [B, S, ...], any dtype.
        starts: [B] int64, column of the first token of each row's span; None: column 0.
        spans: lengths of the B spans, N tokens.

    Returns:
        [N, ...], in the dtype of `padded`.

    Raises:
        ValueError: shapes disagree, or a span is not inside its row.
    """
    check_gather(padded, starts, spans)
    width = padded.shape[1]
    columns = spans.positions
    if starts is not None:
        columns = starts[spans.segment_ids] + columns
    return padded.flatten(0, 1).index_select(0, spans.segment_ids * width + columns)


def scatter_spans(flat: Tensor, spans: Spans, width: int | None = None, fill: float = 0) -> Tensor:
    """Scatter the spans of a flat tensor into padded rows, left-aligned.

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
    padded = flat.new_full((len(spans) * width, *flat.shape[1:]), fill)
    padded.index_copy_(0, spans.segment_ids * width + spans.positions, flat)
    return padded.view(len(spans), width, *flat.shape[1:])


def add_at_span_end(flat: Tensor, per_span: Tensor, spans: Spans) -> Tensor:
    """Add a number per span at the last token of the span, in a new tensor.

    Args:
        flat: [N].
        per_span: [B].
        spans: B spans of the N tokens.

    Returns:
        [N], float32 (float64 if either input is float64).

    Raises:
        ValueError: shapes disagree.
    """
    check_rows("flat", flat, spans.num_tokens)
    check_rows("per_span", per_span, len(spans))
    dtype = torch.promote_types(at_least_float32(flat).dtype, per_span.dtype)
    return flat.to(dtype).index_add(0, spans.offsets[1:] - 1, per_span.to(dtype))


def span_sum(flat: Tensor, spans: Spans) -> Tensor:
    """Sum each span of `flat` [N]: [B], float32 or float64.

    Raises:
        ValueError: flat is not [N].
    """
    check_rows("flat", flat, spans.num_tokens)
    flat = at_least_float32(flat)
    if flat.device.type == "mps":  # which has no kernel of segment_reduce
        return flat.new_zeros(len(spans)).index_add(0, spans.segment_ids, flat)
    return torch.segment_reduce(flat, "sum", offsets=spans.offsets)


def span_mean(flat: Tensor, spans: Spans) -> Tensor:
    """Average each span of `flat` [N]: [B], float32 or float64.

    Raises:
        ValueError: flat is not [N].
    """
    return span_sum(flat, spans) / spans.lengths


def later_in_span(flat: Tensor, spans: Spans, steps: int = 1) -> Tensor:
    """Shift a flat tensor towards the start of each span: out[t] = flat[t + steps].

    Args:
        flat: [N].
        spans: B spans of the N tokens.
        steps: tokens, at least 0.

    Returns:
        [N], in the dtype of `flat`, 0 where t + steps is past the end of the span.

    Raises:
        ValueError: flat is not [N].
    """
    check_rows("flat", flat, spans.num_tokens)
    inside = spans.positions + steps < spans.lengths[spans.segment_ids]
    return torch.where(inside, flat.roll(-steps), 0)


def span_discounted_sum(flat: Tensor, spans: Spans, factor: float | Tensor) -> Tensor:
    """Sum xₜ + c·xₜ₊₁ + c²·xₜ₊₂ + … to the end of each span.

    Computed by doubling: a sum over 2k tokens is the sum over the first k plus cᵏ times the sum
    over the next k. The result of a span does not depend on the other spans, bit for bit.

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
    factor = checked_factor(factor, spans)
    sums, step = at_least_float32(flat), 1
    remaining = spans.lengths[spans.segment_ids] - spans.positions
    while step < spans.max_len:
        power = factor**step
        if isinstance(power, Tensor):
            power = power.to(sums.dtype)[spans.segment_ids]
        sums = sums + power * torch.where(remaining > step, sums.roll(-step), 0)
        step *= 2
    return sums
