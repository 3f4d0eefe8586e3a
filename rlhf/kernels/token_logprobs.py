"""Log-probability and entropy of given tokens, without the [N, V] logits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = 2**23  # logits held at once by default: 32 MiB in float32


def _product(left: Tensor, right: Tensor) -> Tensor:
    with torch.autocast(left.device.type, enabled=False):  # it would round the logits to bf16
        return left.to(right.dtype) @ right


def _log_softmax(hidden: Tensor, weight: Tensor, banned: Tensor, temperature: float) -> Tensor:
    """[C, V] of one chunk, -inf at the banned ids, in the dtype of `weight`."""
    logits = _product(hidden, weight.T).div_(temperature)
    return logits.index_fill_(1, banned, -torch.inf).log_softmax(1)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, banned: Tensor, options: Any
    ) -> tuple[Tensor, Tensor]:
        temperature, chunks, dtype = ctx.options = options
        logprobs, wide = hidden.new_empty(len(tokens), dtype=dtype), weight.to(dtype)
        entropy = torch.empty_like(logprobs)
        for chunk in chunks:
            log_p = _log_softmax(hidden[chunk], wide, banned, temperature)
            logprobs[chunk] = log_p.gather(1, tokens[chunk, None]).squeeze(1)
            p = log_p.exp()
            entropy[chunk] = -p.mul_(log_p.index_fill_(1, banned, 0)).sum(1)  # no 0 · -inf
        ctx.save_for_backward(hidden, weight, tokens, banned, entropy)
        ctx.set_materialize_grads(False)  # an entropy that is only logged costs no backward
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up_logprobs: Tensor | None, up_entropy: Tensor | None) -> Any:
        hidden, weight, tokens, banned, entropy = ctx.saved_tensors
        temperature, chunks, dtype = ctx.options
        wide = weight.to(dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(wide) if ctx.needs_input_grad[1] else None
        up = torch.zeros_like(entropy) if up_logprobs is None else up_logprobs
        for chunk in chunks:
            log_p = _log_softmax(hidden[chunk], wide, banned, temperature)
            p, pull = log_p.exp(), up[chunk, None]
            # ∂ logprob / ∂ logit = onehot - p,  ∂ entropy / ∂ logit = -p (log p + entropy)
            if up_entropy is not None:
                surprise = log_p.index_fill_(1, banned, 0).add_(entropy[chunk, None])
                pull = surprise.mul_(up_entropy[chunk, None]).add_(pull)
            grad = p.mul_(-pull).scatter_add_(1, tokens[chunk, None], up[chunk, None])
            grad_hidden[chunk] = _product(grad.div_(temperature), wide)
            if grad_weight is not None:
                grad_weight.addmm_(grad.T, hidden[chunk].to(dtype))
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
        chunk_tokens whose logits are held at once, in backward too; None holds about 2²³ logits.
    Raises: ValueError for shapes that disagree, a banned token, an id or option out of range.
    """
    if (hidden.shape[:1], hidden.shape[1:]) != (tokens.shape, weight.shape[1:]):
        shapes = [list(tensor.shape) for tensor in (hidden, weight, tokens)]
        raise ValueError(f"hidden, weight, tokens: got {shapes}, wanted [N, D], [V, D], [N]")
    banned = torch.tensor(sorted({*(banned_ids or ())}), dtype=torch.int64, device=hidden.device)
    ids = torch.cat([tokens, banned])
    if bool(((ids < 0) | (ids >= len(weight))).any() | torch.isin(tokens, banned).any()):
        raise ValueError(f"tokens: got a banned id, or one outside the {len(weight)} ids")
    size = max(1, CHUNK_LOGITS // len(weight)) if chunk_tokens is None else chunk_tokens
    if not (temperature > 0 and size > 0):
        raise ValueError(f"got {temperature=}, {chunk_tokens=}, wanted both above 0")
    chunks = [slice(start, start + size) for start in range(0, len(tokens), size)]
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    options = (float(temperature), chunks, dtype)
    return _TokenLogprobs.apply(hidden, weight, tokens, banned, options)  # type: ignore[no-any-return, no-untyped-call]
