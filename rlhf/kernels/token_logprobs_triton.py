"""`token_logprobs` on a GPU: matrix products by torch, the rest by Triton.

Logits are in memory only for one chunk of tokens and one tile of the vocabulary at a time; backward
recomputes them.
"""

# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator, no-untyped-def"

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhf.kernels.token_logprobs import Options, checked_arguments

CHUNK_LOGITS = 2**23  # logits in memory: 32 MiB in float32
CHUNK_TOKENS = 1024  # enough to make the products compute-bound, not bound by reading `weight`
ALIGN = 128  # tile widths are multiples of it, so that rows are aligned for the matrix units
BLOCK = 4096  # columns per block of a program
HALF = (torch.bfloat16, torch.float16)


@triton.jit
def _online_softmax_kernel(
    logits_ptr,
    width,
    first_column,
    tokens_ptr,
    banned_ptr,
    temperature,
    row_max_ptr,
    sum_exp_ptr,
    sum_x_exp_ptr,
    target_logit_ptr,
    BLOCK: tl.constexpr,
):
    """Update m = max x, Σ exp(x - m) and Σ exp(x - m)·(x - m) of each row with a tile of logits.

    One program per row [C]. The tile [C, width] begins at `first_column` of the vocabulary; if it
    contains the row's token, the logit of the token is stored too.
    """
    row = tl.program_id(0).to(tl.int64)
    row_max = tl.load(row_max_ptr + row)
    sum_exp, sum_x_exp = tl.load(sum_exp_ptr + row), tl.load(sum_x_exp_ptr + row)
    logits_ptr += row * width
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        allowed = tl.load(banned_ptr + first_column + column, mask=column < width, other=1) == 0
        x = tl.load(logits_ptr + column, mask=allowed, other=float("-inf")) / temperature
        new_max = tl.maximum(row_max, tl.max(x, 0))
        shifted = tl.where(allowed, x - new_max, 0)  # no -inf - -inf if all are banned
        exp = tl.where(allowed, tl.exp(shifted), 0)
        max_diff = tl.where(sum_exp == 0, 0, row_max - new_max)
        rescale = tl.exp(max_diff)
        sum_x_exp = rescale * (sum_x_exp + max_diff * sum_exp) + tl.sum(exp * shifted, 0)
        sum_exp = rescale * sum_exp + tl.sum(exp, 0)
        row_max = new_max
    tl.store(row_max_ptr + row, row_max)
    tl.store(sum_exp_ptr + row, sum_exp)
    tl.store(sum_x_exp_ptr + row, sum_x_exp)
    target = tl.load(tokens_ptr + row) - first_column
    in_tile = (target >= 0) & (target < width)
    target_logit = tl.load(logits_ptr + target, mask=in_tile, other=0) / temperature
    tl.store(target_logit_ptr + row, target_logit, mask=in_tile)


@triton.jit
def _logits_grad_kernel(
    logits_ptr,
    width,
    first_column,
    tokens_ptr,
    banned_ptr,
    temperature,
    lse_ptr,
    entropy_ptr,
    grad_logprobs_ptr,
    grad_entropy_ptr,
    BLOCK: tl.constexpr,
):
    """Replace a tile of logits [C, width] by their gradient, in place; one program per row.

    ∂ logprob / ∂ x = onehot - p        ∂ entropy / ∂ x = -p (log p + entropy)
    """
    row = tl.program_id(0).to(tl.int64)
    lse, entropy = tl.load(lse_ptr + row), tl.load(entropy_ptr + row)
    grad_logprob = tl.load(grad_logprobs_ptr + row)
    grad_entropy = tl.load(grad_entropy_ptr + row)
    target = tl.load(tokens_ptr + row) - first_column
    logits_ptr += row * width
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        allowed = tl.load(banned_ptr + first_column + column, mask=column < width, other=1) == 0
        log_p = tl.load(logits_ptr + column, mask=allowed, other=0) / temperature - lse
        p = tl.where(allowed, tl.exp(log_p), 0)
        onehot = tl.where(column == target, 1.0, 0.0)
        grad = grad_logprob * (onehot - p) - grad_entropy * p * (log_p + entropy)
        tl.store(logits_ptr + column, grad / temperature, mask=column < width)


def _chunk_forward(
    hidden: Tensor, weight: Tensor, tokens: Tensor, banned: Tensor, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, entropy and log-sum-exp [C] of hidden states [C, D], tile by tile."""
    target_logit, sum_exp, sum_x_exp = hidden.new_zeros(3, len(tokens), dtype=options.dtype)
    row_max = torch.full_like(sum_exp, -torch.inf)
    for tile in _tiles(len(weight), len(tokens)):
        with torch.autocast(hidden.device.type, enabled=False):
            logits = _matmul(hidden, weight[tile].T, options.dtype)
        _online_softmax_kernel[(len(tokens),)](
            logits,
            logits.shape[1],
            tile.start,
            tokens,
            banned,
            options.temperature,
            row_max,
            sum_exp,
            sum_x_exp,
            target_logit,
            BLOCK,
            num_warps=8,
        )
    lse = row_max + sum_exp.log()
    return target_logit - lse, sum_exp.log() - sum_x_exp / sum_exp, lse


def _tile_logits_grad(
    hidden: Tensor,
    weight: Tensor,
    first_column: int,
    tokens: Tensor,
    banned: Tensor,
    options: Options,
    rows: list[Tensor],
) -> Tensor:
    """Gradient of the logits [C, width] of a tile.

    Args:
        hidden: [C, D].
        weight: [width, D], the rows of the tile.
        first_column: where the tile begins in the vocabulary.
        tokens: [C] int64.
        banned: [V] int8, 1 at banned ids.
        options: of the call.
        rows: [C] each: log-sum-exp, entropy, gradient of the log-probability and of the entropy.
    """
    grad = _matmul(hidden, weight.T, options.dtype)
    _logits_grad_kernel[(len(grad),)](
        grad,
        grad.shape[1],
        first_column,
        tokens,
        banned,
        options.temperature,
        *rows,
        BLOCK,
        num_warps=8,
    )
    # the range of float16 is too small for p / tokens
    return grad.bfloat16() if weight.dtype == torch.bfloat16 else grad


def _matmul(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Product left · right in `dtype`; half-precision inputs are not upcast, sums are float32."""
    if left.is_cuda and left.dtype == right.dtype and left.dtype in HALF:
        return torch.mm(left, right, out_dtype=dtype)
    return left.to(dtype) @ right.to(dtype)


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, total, size)]


def _tiles(vocabulary: int, rows: int) -> list[slice]:
    """Slices of the vocabulary such that `rows` rows have about CHUNK_LOGITS logits each."""
    return _slices(vocabulary, max(ALIGN, CHUNK_LOGITS // rows // ALIGN * ALIGN))


class _TokenLogprobs(torch.autograd.Function):
    """Log-probability and entropy [N]; backward computes the logits again, tile by tile."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, banned: Tensor, options: Options
    ) -> tuple[Tensor, Tensor]:
        ctx.options = options
        lse = hidden.new_empty(len(tokens), dtype=options.dtype)
        logprobs, entropy = torch.empty_like(lse), torch.empty_like(lse)
        for chunk in options.chunks:
            logprobs[chunk], entropy[chunk], lse[chunk] = _chunk_forward(
                hidden[chunk], weight, tokens[chunk], banned, options
            )
        ctx.save_for_backward(hidden, weight, tokens, banned, lse, entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor) -> Any:
        with torch.autocast(grad_logprobs.device.type, enabled=False):
            grads = _gradients(ctx, grad_logprobs.contiguous(), grad_entropy.contiguous())
        return *grads, None, None, None


def _gradients(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of hidden [N, D] and weight [V, D]; None if the input needs no gradient."""
    hidden, weight, tokens, banned, *saved = ctx.saved_tensors
    options: Options = ctx.options
    needs_hidden, needs_weight, *_ = ctx.needs_input_grad
    dtype = options.dtype
    grad_hidden = torch.zeros_like(hidden, dtype=dtype) if needs_hidden else None
    grad_weight = torch.zeros_like(weight, dtype=dtype) if needs_weight else None
    for chunk in options.chunks:
        rows = [tensor[chunk] for tensor in (*saved, *grad_outputs)]
        for tile in _tiles(len(weight), len(rows[0])):
            grad = _tile_logits_grad(
                hidden[chunk], weight[tile], tile.start, tokens[chunk], banned, options, rows
            )
            if grad_hidden is not None:
                grad_hidden[chunk] += _matmul(grad, weight[tile], dtype)
            if grad_weight is not None:
                grad_weight[tile] += _matmul(grad.T, hidden[chunk], dtype)
    return grad_hidden, grad_weight


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    *,
    temperature: float = 1.0,
    banned_ids: Sequence[int] | None = None,
    chunk_tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of each token, by Triton on a GPU.

    Equals `rlhf.kernels.token_logprobs.token_logprobs`, except that bfloat16 weights round the
    gradient of the logits to bfloat16.

    Args:
        hidden: [N, D], hidden states before the output layer.
        weight: [V, D], output embedding.
        tokens: [N] int64, on any device; on the host their check does not wait for the GPU.
        temperature: above 0, divides the logits.
        banned_ids: ids of probability 0.
        chunk_tokens: tokens per chunk of logits; None: 1,024.

    Returns:
        Log-probabilities and entropies, [N] each, nats, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes disagree, a token is banned, or an id or option is out of range.
    """
    tokens, ids, options = checked_arguments(
        hidden, weight, tokens, temperature, banned_ids, chunk_tokens
    )
    if chunk_tokens is None:
        options = options._replace(chunks=_slices(len(tokens), CHUNK_TOKENS))
    banned = torch.zeros(len(weight), dtype=torch.int8, device=hidden.device)
    banned[ids] = 1
    arguments = (hidden, weight, tokens.contiguous(), banned, options)
    return _TokenLogprobs.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]
