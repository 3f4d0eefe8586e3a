"""Exact KL divergence of two policies at each token, without the [N, V] logits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhf.kernels.token_logprobs import Options, checked_options, chunk_logits, product

LogitsSide = tuple[Tensor, Tensor]  # hidden over temperature [N, D] and weight [V, D], both wide


def _sides(
    hidden: Tensor, weight: Tensor, ref_hidden: Tensor, ref_weight: Tensor | None, options: Options
) -> tuple[LogitsSide, LogitsSide]:
    wide = weight.to(options.dtype)
    ref_wide = wide if ref_weight is None else ref_weight.to(options.dtype)
    scaled, ref_scaled = (h.to(options.dtype) / options.temperature for h in (hidden, ref_hidden))
    return (scaled, wide), (ref_scaled, ref_wide)


def _chunk_kl(
    policy: LogitsSide, reference: LogitsSide, chunk: slice, banned: Tensor, options: Options
) -> tuple[Tensor, Tensor]:
    """KL [C] and its gradient by the logits [C, V], p (log p - log q - KL)."""
    log_p, log_q = (
        chunk_logits(scaled[chunk], wide, banned, options).log_softmax(1)
        for scaled, wide in (policy, reference)
    )
    p = log_p.exp()
    ratio = log_p.sub_(log_q).index_fill_(1, banned, 0)  # no -inf minus -inf
    kl = (p * ratio).sum(1)
    return kl, p.mul_(ratio.sub_(kl[:, None]))


class _TokenKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        ref_hidden: Tensor,
        ref_weight: Tensor | None,
        banned: Tensor,
        options: Options,
    ) -> Tensor:
        policy, reference = _sides(hidden, weight, ref_hidden, ref_weight, options)
        kl = policy[0].new_empty(len(hidden))
        # A frozen weight spares the backward the logits: the gradient is made here, once.
        slope = torch.empty_like(policy[0]) if ctx.needs_input_grad[:2] == (True, False) else None
        for chunk in options.chunks:
            kl[chunk], pull = _chunk_kl(policy, reference, chunk, banned, options)
            if slope is not None:
                slope[chunk] = product(pull, policy[1], options) / options.temperature
        ctx.save_for_backward(hidden, weight, ref_hidden, ref_weight, banned, slope)
        ctx.options = options
        return kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up: Tensor) -> Any:
        hidden, weight, ref_hidden, ref_weight, banned, slope = ctx.saved_tensors
        options: Options = ctx.options
        if slope is not None:
            return (slope * up[:, None]).to(hidden.dtype), *[None] * 5
        policy, reference = _sides(hidden, weight, ref_hidden, ref_weight, options)
        scaled, wide = policy
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(wide)
        for chunk in options.chunks:
            pull = _chunk_kl(policy, reference, chunk, banned, options)[1].mul_(up[chunk, None])
            grad_hidden[chunk] = product(pull, wide, options) / options.temperature
            grad_weight.addmm_(pull.T, scaled[chunk])
        return grad_hidden, grad_weight, *[None] * 4


def token_kl(
    hidden: Tensor,
    ref_hidden: Tensor,
    weight: Tensor,
    *,
    ref_weight: Tensor | None = None,
    temperature: float = 1.0,
    banned_ids: Sequence[int] | None = None,
    chunk_tokens: int | None = None,
) -> Tensor:
    """KL(policy ‖ reference) [N] over the whole vocabulary, nats, float32 or better.

        p = softmax(hidden · weightᵀ / temperature), 0 at banned ids; q likewise, of the reference
        KL = Σ p (log p - log q)        ∂KL / ∂logit = p (log p - log q - KL)

    The reference is a constant: gradients reach hidden and weight through p only, and with no
    `ref_weight` the reference reads `weight` as it stands, detached.

    Args: hidden, ref_hidden [N, D]; weight, ref_weight [V, D], output embeddings: a reference with
        its own may have another D; temperature above 0; chunk_tokens whose logits are held at once,
        in backward too; None chooses.
    Raises: ValueError for shapes that disagree, an id or option out of range, all ids banned.
    """
    other = weight if ref_weight is None else ref_weight
    shapes, width = [list(ref_hidden.shape), list(other.shape)], other.shape[-1]
    if shapes != [[len(hidden), width], [len(weight), width]]:
        raise ValueError(f"ref_hidden, ref_weight: got {shapes}, wanted [N, D], [V, D]")
    banned, options = checked_options(hidden, weight, temperature, banned_ids, chunk_tokens)
    return _TokenKL.apply(hidden, weight, ref_hidden, ref_weight, banned, options)  # type: ignore[no-any-return, no-untyped-call]
