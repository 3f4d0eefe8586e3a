"""Log-probability and entropy of given tokens, without the [N, V] logits."""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhf.spans import check_rows

# Held at once by default: 2²² logits (16 MiB in float32, most of a cache), but never fewer than 128
# tokens, since each chunk reads the whole weight.
CHUNK_LOGITS, CHUNK_TOKENS = 2**22, 128
_matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


class Options(NamedTuple):
    """How the logits are made: divided by temperature, a chunk of tokens at a time, in dtype.

    Attributes:
        narrow: of products the factors are rounded to bfloat16, as hidden is; the sums are not.
    """

    temperature: float
    chunks: list[slice]
    dtype: torch.dtype
    narrow: bool


def checked_options(
    hidden: Tensor,
    weight: Tensor,
    temperature: float,
    banned_ids: Sequence[int] | None,
    chunk_tokens: int | None,
) -> tuple[Tensor, Options]:
    """The banned ids [K] int64, each once, and the options of hidden [N, D] and weight [V, D].

    Raises: ValueError for shapes that disagree, an id or option out of range, all ids banned.
    """
    if (hidden.dim(), hidden.shape[1:]) != (2, weight.shape[1:]):
        shapes = [list(hidden.shape), list(weight.shape)]
        raise ValueError(f"hidden, weight: got {shapes}, wanted [N, D], [V, D]")
    listed = [] if banned_ids is None else [int(i) for i in banned_ids]
    ids, vocabulary = sorted({*listed}), len(weight)
    if len(ids) >= vocabulary or (ids and not 0 <= ids[0] <= ids[-1] < vocabulary):
        raise ValueError(f"banned_ids: got {ids}, wanted some of the {vocabulary} ids, not all")
    size = max(CHUNK_TOKENS, CHUNK_LOGITS // vocabulary) if chunk_tokens is None else chunk_tokens
    if not (0 < temperature < inf and size > 0):
        raise ValueError(f"got {temperature=}, {chunk_tokens=}, wanted both above 0 and finite")
    chunks = [slice(start, start + size) for start in range(0, len(hidden), size)]
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    banned = torch.tensor(ids, dtype=torch.int64, device=hidden.device)
    narrow = hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16
    return banned, Options(float(temperature), chunks, dtype, narrow)


def checked_arguments(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    temperature: float,
    banned_ids: Sequence[int] | None,
    chunk_tokens: int | None,
) -> tuple[Tensor, Options]:
    """`checked_options`, with tokens [N] checked too: none banned, none outside the vocabulary."""
    check_rows("tokens", tokens, len(hidden))
    if tokens.is_floating_point():
        raise ValueError(f"tokens: got {tokens.dtype}, wanted int64 ids")
    banned, options = checked_options(hidden, weight, temperature, banned_ids, chunk_tokens)
    outside = ((tokens < 0) | (tokens >= len(weight))).any()
    if bool(outside | torch.isin(tokens, banned).any()):
        raise ValueError(f"tokens: got a banned id, or one outside the {len(weight)} ids")
    return banned, options


def product(left: Tensor, right: Tensor, options: Options) -> Tensor:
    """left · right, its sums in their own precision: autocast would round the logits to bf16."""
    wide = _matmul.fp32_precision
    try:
        _matmul.fp32_precision = "bf16" if options.narrow else wide
        with torch.autocast(left.device.type, enabled=False):
            return left @ right
    finally:
        _matmul.fp32_precision = wide


def chunk_logits(scaled: Tensor, weight: Tensor, banned: Tensor, options: Options) -> Tensor:
    """[C, V] of hidden over temperature [C, D], -inf at the banned ids."""
    return product(scaled, weight.T, options).index_fill_(1, banned, -torch.inf)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, banned: Tensor, options: Options
    ) -> tuple[Tensor, Tensor]:
        # A wide copy of a half weight for the whole call: made in each chunk it would cost time.
        wide, scaled = weight.to(options.dtype), hidden.to(options.dtype) / options.temperature
        logprobs = scaled.new_empty(len(tokens))
        entropy = torch.empty_like(logprobs)
        # A frozen weight spares the logprobs' backward the logits: Σ p·w, kept here, is enough.
        mean = torch.empty_like(scaled) if ctx.needs_input_grad[:2] == (True, False) else None
        for chunk in options.chunks:
            log_p = chunk_logits(scaled[chunk], wide, banned, options).log_softmax(1)
            logprobs[chunk] = log_p.gather(1, tokens[chunk, None]).squeeze(1)
            p = log_p.exp()
            if mean is not None:
                mean[chunk] = product(p, wide, options)
            entropy[chunk] = -p.mul_(log_p.index_fill_(1, banned, 0)).sum(1)  # no 0 · -inf
        ctx.save_for_backward(hidden, weight, tokens, banned, logprobs, entropy, mean)
        ctx.options = options
        ctx.set_materialize_grads(False)  # an entropy that is only logged costs no backward
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up_logprobs: Tensor | None, up_entropy: Tensor | None) -> Any:
        hidden, weight, tokens, banned, logprobs, entropy, mean = ctx.saved_tensors
        options: Options = ctx.options
        up = torch.zeros_like(entropy) if up_logprobs is None else up_logprobs
        if mean is not None and up_entropy is None:
            slope = (weight[tokens] - mean) * (up[:, None] / options.temperature)
            return slope.to(hidden.dtype), None, None, None, None
        wide, scaled = weight.to(options.dtype), hidden.to(options.dtype) / options.temperature
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(wide) if ctx.needs_input_grad[1] else None
        for chunk in options.chunks:
            logits, chosen = chunk_logits(scaled[chunk], wide, banned, options), tokens[chunk, None]
            log_p = logits.sub_(logits.gather(1, chosen) - logprobs[chunk, None])
            p, pull = log_p.exp(), up[chunk, None]
            # ∂ logprob / ∂ logit = onehot - p,  ∂ entropy / ∂ logit = -p (log p + entropy)
            if up_entropy is not None:
                surprise = log_p.index_fill_(1, banned, 0).add_(entropy[chunk, None])
                pull = surprise.mul_(up_entropy[chunk, None]).add_(pull)
            grad = p.mul_(pull).neg_().scatter_add_(1, chosen, up[chunk, None])
            grad_hidden[chunk] = product(grad, wide, options) / options.temperature
            if grad_weight is not None:
                grad_weight.addmm_(grad.T, scaled[chunk])
        return grad_hidden, grad_weight, None, None, None


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    *,
    temperature: float = 1.0,
    banned_ids: Sequence[int] | None = None,
    chunk_tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    """logprobs [N] of the tokens and entropy [N] of their distributions, nats, float32 or better.

        p = softmax(hidden · weightᵀ / temperature), 0 at banned ids
        logprob = log p[token]        entropy = -Σ p log p

    Args: hidden [N, D]; weight [V, D], output embedding; tokens [N] int64; temperature above 0;
        chunk_tokens whose logits are held at once, in backward too; None chooses.
    Raises: ValueError for shapes that disagree, a banned token, an id or option out of range.
    """
    banned, options = checked_arguments(
        hidden, weight, tokens, temperature, banned_ids, chunk_tokens
    )
    return _TokenLogprobs.apply(hidden, weight, tokens, banned, options)  # type: ignore[no-any-return, no-untyped-call]
