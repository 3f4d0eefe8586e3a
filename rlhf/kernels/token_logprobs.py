"""Log-probability and entropy of tokens, without the [N, V] logits."""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhf.spans import check_rows

# Default size of a chunk: 2²² logits (16 MiB in float32, so that they stay in the CPU cache), but
# at least 128 tokens, since each chunk reads the whole weight.
CHUNK_LOGITS, CHUNK_TOKENS = 2**22, 128
_mkldnn_matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


class Options(NamedTuple):
    """How the logits are computed.

    Attributes:
        temperature: divides the logits, above 0.
        chunks: slices of the N tokens; logits are in memory for one slice at a time.
        dtype: of logits, log-probabilities and entropies: float32, or float64 for float64 inputs.
        bf16_factors: whether matrix products round their inputs, but not their sums, to bfloat16.
    """

    temperature: float
    chunks: list[slice]
    dtype: torch.dtype
    bf16_factors: bool


def checked_options(
    hidden: Tensor,
    weight: Tensor,
    temperature: float,
    banned_ids: Sequence[int] | None,
    chunk_tokens: int | None,
) -> tuple[Tensor, Options]:
    """Check the arguments of a call and derive its options.

    Args:
        hidden: [N, D].
        weight: [V, D].
        temperature: above 0, divides the logits.
        banned_ids: ids of probability 0; None: none.
        chunk_tokens: tokens per chunk of logits; None: chosen automatically.

    Returns:
        Banned ids [K] int64, unique and increasing, and the options.

    Raises:
        ValueError: shapes disagree, an id or option is out of range, or all ids are banned.
    """
    if (hidden.dim(), hidden.shape[1:]) != (2, weight.shape[1:]):
        shapes = [list(hidden.shape), list(weight.shape)]
        raise ValueError(f"hidden, weight: got {shapes}, wanted [N, D], [V, D]")
    listed = () if banned_ids is None else banned_ids
    ids, vocabulary = sorted({int(i) for i in listed}), len(weight)
    if len(ids) >= vocabulary or (ids and not 0 <= ids[0] <= ids[-1] < vocabulary):
        raise ValueError(f"banned_ids: got {ids}, wanted some of the {vocabulary} ids, not all")
    size = max(CHUNK_TOKENS, CHUNK_LOGITS // vocabulary) if chunk_tokens is None else chunk_tokens
    if not (0 < temperature < inf and size > 0):
        raise ValueError(f"got {temperature=}, {chunk_tokens=}, wanted both above 0 and finite")
    chunks = [slice(start, start + size) for start in range(0, len(hidden), size)]
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    banned = torch.tensor(ids, dtype=torch.int64, device=hidden.device)
    bf16_factors = hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16
    return banned, Options(float(temperature), chunks, dtype, bf16_factors)


def checked_arguments(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    temperature: float,
    banned_ids: Sequence[int] | None,
    chunk_tokens: int | None,
) -> tuple[Tensor, Tensor, Options]:
    """Check the arguments of a call with tokens and derive its options.

    Args:
        hidden: [N, D].
        weight: [V, D].
        tokens: [N] int64, checked on their device.
        temperature: above 0, divides the logits.
        banned_ids: ids of probability 0; None: none.
        chunk_tokens: tokens per chunk of logits; None: chosen automatically.

    Returns:
        Tokens [N] and banned ids [K] int64 on the device of `hidden`, and the options.

    Raises:
        ValueError: see `checked_options`; or a token is banned or outside the vocabulary.
    """
    check_rows("tokens", tokens, len(hidden))
    if tokens.is_floating_point():
        raise ValueError(f"tokens: got {tokens.dtype}, wanted int64 ids")
    banned, options = checked_options(hidden, weight, temperature, banned_ids, chunk_tokens)
    out_of_range = ((tokens < 0) | (tokens >= len(weight))).any()
    ids = [] if banned_ids is None else [int(i) for i in banned_ids]
    listed = torch.tensor(ids, dtype=torch.int64, device=tokens.device)
    if bool(out_of_range | torch.isin(tokens, listed).any()):
        raise ValueError(f"tokens: got a banned id, or one outside the {len(weight)} ids")
    return tokens.to(hidden.device), banned, options


def matmul(left: Tensor, right: Tensor, options: Options) -> Tensor:
    """Multiply two matrices in the dtype of their elements, even under autocast.

    Args:
        left: [A, C], in `options.dtype`.
        right: [C, B], in `options.dtype`.
        options: decide whether the inputs are rounded to bfloat16.
    """
    precision = _mkldnn_matmul.fp32_precision
    try:
        _mkldnn_matmul.fp32_precision = "bf16" if options.bf16_factors else precision
        with torch.autocast(left.device.type, enabled=False):  # it would round the logits
            return left @ right
    finally:
        _mkldnn_matmul.fp32_precision = precision


def chunk_logits(scaled: Tensor, weight: Tensor, banned: Tensor, options: Options) -> Tensor:
    """Compute the logits of a chunk of tokens, -inf at the banned ids.

    Args:
        scaled: [C, D], hidden states divided by the temperature, in `options.dtype`.
        weight: [V, D], in `options.dtype`.
        banned: [K] int64.
        options: of the call.

    Returns:
        [C, V] in `options.dtype`.
    """
    return matmul(scaled, weight.T, options).index_fill_(1, banned, -torch.inf)


class _TokenLogprobs(torch.autograd.Function):
    """Log-probability and entropy [N]; backward computes the logits again, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, banned: Tensor, options: Options
    ) -> tuple[Tensor, Tensor]:
        # Upcast a half-precision weight once, not in each chunk.
        upcast_weight = weight.to(options.dtype)
        scaled = hidden.to(options.dtype) / options.temperature
        logprobs = scaled.new_empty(len(tokens))
        entropy = torch.empty_like(logprobs)
        # With a frozen weight, the backward of logprobs needs Σ p·w, saved here, but no logits.
        frozen_weight = ctx.needs_input_grad[:2] == (True, False)
        mean_weight = torch.empty_like(scaled) if frozen_weight else None
        for chunk in options.chunks:
            log_p = chunk_logits(scaled[chunk], upcast_weight, banned, options).log_softmax(1)
            logprobs[chunk] = log_p.gather(1, tokens[chunk, None]).squeeze(1)
            p = log_p.exp()
            if mean_weight is not None:
                mean_weight[chunk] = matmul(p, upcast_weight, options)
            entropy[chunk] = -p.mul_(log_p.index_fill_(1, banned, 0)).sum(1)  # no 0 · -inf
        ctx.save_for_backward(hidden, weight, tokens, banned, logprobs, entropy, mean_weight)
        ctx.options = options
        ctx.set_materialize_grads(False)  # no backward for an entropy that is only logged
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None) -> Any:
        hidden, weight, tokens, banned, logprobs, entropy, mean_weight = ctx.saved_tensors
        options: Options = ctx.options
        grad_logprobs = torch.zeros_like(entropy) if grad_logprobs is None else grad_logprobs
        if mean_weight is not None and grad_entropy is None:
            scale = grad_logprobs[:, None] / options.temperature
            grad_hidden = (weight[tokens] - mean_weight) * scale
            return grad_hidden.to(hidden.dtype), None, None, None, None
        upcast_weight = weight.to(options.dtype)
        scaled = hidden.to(options.dtype) / options.temperature
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(upcast_weight) if ctx.needs_input_grad[1] else None
        for chunk in options.chunks:
            logits = chunk_logits(scaled[chunk], upcast_weight, banned, options)
            targets, grad_logprob = tokens[chunk, None], grad_logprobs[chunk, None]
            log_p = logits.sub_(logits.gather(1, targets) - logprobs[chunk, None])
            p, factor = log_p.exp(), grad_logprob
            # ∂ logprob / ∂ logit = onehot - p,  ∂ entropy / ∂ logit = -p (log p + entropy)
            if grad_entropy is not None:
                centered = log_p.index_fill_(1, banned, 0).add_(entropy[chunk, None])
                factor = centered.mul_(grad_entropy[chunk, None]).add_(factor)
            grad_logits = p.mul_(factor).neg_().scatter_add_(1, targets, grad_logprob)
            grad_hidden[chunk] = matmul(grad_logits, upcast_weight, options) / options.temperature
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, scaled[chunk])
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
    """Compute the log-probability and the entropy of each token without the [N, V] logits.

        p = softmax(hidden · weightᵀ / temperature), 0 at banned ids
        logprob = log p[token]        entropy = -Σ p log p

    Differentiable once in hidden and weight.

    Args:
        hidden: [N, D], hidden states before the output layer.
        weight: [V, D], output embedding.
        tokens: [N] int64, on any device; on the host their check does not wait for a GPU.
        temperature: above 0, divides the logits.
        banned_ids: ids of probability 0; None: none.
        chunk_tokens: tokens per chunk of logits, also in backward; None: chosen automatically.

    Returns:
        Log-probabilities and entropies, [N] each, nats, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes disagree, a token is banned, or an id or option is out of range.
    """
    tokens, banned, options = checked_arguments(
        hidden, weight, tokens, temperature, banned_ids, chunk_tokens
    )
    return _TokenLogprobs.apply(hidden, weight, tokens, banned, options)  # type: ignore[no-any-return, no-untyped-call]
