"""token_logprobs on a GPU: matrix products by torch, all that follows them by Triton.

The logits of a chunk of tokens and a tile of the vocabulary are all that is ever held, in backward
too, which makes them again.
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

CHUNK_LOGITS = 2**23  # held at once: 32 MiB in float32
CHUNK_TOKENS = 1024  # enough for the products to be bound by arithmetic, not by reading `weight`
ALIGN = 128  # a tile is a multiple of these columns: matrix units want aligned rows
BLOCK = 4096  # columns a program holds at once
HALF = (torch.bfloat16, torch.float16)


@triton.jit
def _online_softmax_kernel(
    logits,
    width,
    first,
    tokens,
    banned,
    temperature,
    tops,
    masses,
    tilts,
    picks,
    BLOCK: tl.constexpr,
):
    """Take a tile [C, width] into each row's maximum m, Σ exp(x - m) and Σ exp(x - m)·(x - m)."""
    row = tl.program_id(0).to(tl.int64)
    top, mass, tilt = tl.load(tops + row), tl.load(masses + row), tl.load(tilts + row)
    logits += row * width
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        kept = tl.load(banned + first + column, mask=column < width, other=1) == 0
        x = tl.load(logits + column, mask=kept, other=float("-inf")) / temperature
        higher = tl.maximum(top, tl.max(x, 0))
        above = tl.where(kept, x - higher, 0)  # -inf less -inf where all so far is banned
        parts = tl.where(kept, tl.exp(above), 0)
        fall = tl.where(mass == 0, 0, top - higher)
        tilt = tl.exp(fall) * (tilt + fall * mass) + tl.sum(parts * above, 0)
        mass = tl.exp(fall) * mass + tl.sum(parts, 0)
        top = higher
    tl.store(tops + row, top)
    tl.store(masses + row, mass)
    tl.store(tilts + row, tilt)
    hit = tl.load(tokens + row) - first
    here = (hit >= 0) & (hit < width)
    tl.store(picks + row, tl.load(logits + hit, mask=here, other=0) / temperature, mask=here)


@triton.jit
def _logits_grad_kernel(
    logits,
    width,
    first,
    tokens,
    banned,
    temperature,
    log_masses,
    entropies,
    up_logprobs,
    up_entropies,
    BLOCK: tl.constexpr,
):
    """Replace a tile of logits by their gradient.

    ∂ logprob / ∂ x = onehot - p        ∂ entropy / ∂ x = -p (log p + entropy)
    """
    row = tl.program_id(0).to(tl.int64)
    log_mass, entropy = tl.load(log_masses + row), tl.load(entropies + row)
    up_logprob, up_entropy = tl.load(up_logprobs + row), tl.load(up_entropies + row)
    hit = tl.load(tokens + row) - first
    logits += row * width
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        kept = tl.load(banned + first + column, mask=column < width, other=1) == 0
        log_p = tl.load(logits + column, mask=kept, other=0) / temperature - log_mass
        p = tl.where(kept, tl.exp(log_p), 0)
        onehot = tl.where(column == hit, 1.0, 0.0)
        grad = up_logprob * (onehot - p) - up_entropy * p * (log_p + entropy)
        tl.store(logits + column, grad / temperature, mask=column < width)


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """left · right in `dtype`; half matrices are multiplied as they are, summed in float32."""
    if left.is_cuda and left.dtype == right.dtype and left.dtype in HALF:
        return torch.mm(left, right, out_dtype=dtype)
    return left.to(dtype) @ right.to(dtype)


def _pieces(total: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, total, size)]


def _tiles(vocabulary: int, rows: int) -> list[slice]:
    """The vocabulary in pieces of which `rows` rows are about CHUNK_LOGITS logits."""
    return _pieces(vocabulary, max(ALIGN, CHUNK_LOGITS // rows // ALIGN * ALIGN))


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, banned: Tensor, options: Options
    ) -> tuple[Tensor, Tensor]:
        ctx.options = options
        temperature, chunks, dtype, _ = options
        log_masses = hidden.new_empty(len(tokens), dtype=dtype)
        logprobs, entropies = torch.empty_like(log_masses), torch.empty_like(log_masses)
        for chunk in chunks:
            picks, masses, tilts = hidden.new_zeros(3, len(tokens[chunk]), dtype=dtype)
            tops = torch.full_like(masses, -torch.inf)
            state = (tops, masses, tilts, picks)
            for tile in _tiles(len(weight), len(tops)):
                with torch.autocast(hidden.device.type, enabled=False):
                    logits = _product(hidden[chunk], weight[tile].T, dtype)
                where = (logits.shape[1], tile.start, tokens[chunk], banned, temperature)
                _online_softmax_kernel[(len(tops),)](logits, *where, *state, BLOCK, num_warps=8)
            log_masses[chunk] = tops + masses.log()
            logprobs[chunk] = picks - log_masses[chunk]
            entropies[chunk] = masses.log() - tilts / masses
        ctx.save_for_backward(hidden, weight, tokens, banned, log_masses, entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up_logprobs: Tensor, up_entropies: Tensor) -> Any:
        with torch.autocast(up_logprobs.device.type, enabled=False):
            grads = _gradients(ctx, up_logprobs.contiguous(), up_entropies.contiguous())
        return *grads, None, None, None


def _gradients(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of hidden and of weight, each None where none is wanted."""
    hidden, weight, tokens, banned, *saved = ctx.saved_tensors
    temperature, chunks, dtype, _ = ctx.options
    wants_hidden, wants_weight, *_ = ctx.needs_input_grad
    grad_hidden = torch.zeros_like(hidden, dtype=dtype) if wants_hidden else None
    grad_weight = torch.zeros_like(weight, dtype=dtype) if wants_weight else None
    for chunk in chunks:
        rows = [tensor[chunk] for tensor in (*saved, *upstream)]
        for tile in _tiles(len(weight), len(rows[0])):
            grad = _product(hidden[chunk], weight[tile].T, dtype)
            where = (grad.shape[1], tile.start, tokens[chunk], banned, temperature)
            _logits_grad_kernel[(len(grad),)](grad, *where, *rows, BLOCK, num_warps=8)
            # float16 has too small a range for p / tokens
            grad = grad.bfloat16() if weight.dtype == torch.bfloat16 else grad
            if grad_hidden is not None:
                grad_hidden[chunk] += _product(grad, weight[tile], dtype)
            if grad_weight is not None:
                grad_weight[tile] += _product(grad.T, hidden[chunk], dtype)
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
    """As `rlhf.kernels.token_logprobs`; bfloat16 weights round the gradient of the logits."""
    ids, options = checked_arguments(hidden, weight, tokens, temperature, banned_ids, chunk_tokens)
    if chunk_tokens is None:
        options = options._replace(chunks=_pieces(len(tokens), CHUNK_TOKENS))
    banned = torch.zeros(len(weight), dtype=torch.int8, device=hidden.device)
    banned[ids] = 1
    arguments = (hidden, weight, tokens.contiguous(), banned, options)
    return _TokenLogprobs.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]
