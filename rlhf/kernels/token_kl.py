"""Exact KL divergence of two policies at each token, without the [N, V] logits."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhf.kernels.token_logprobs import Options, checked_options, chunk_logits, matmul


class _Model(NamedTuple):
    """Hidden states [N, D] divided by the temperature, and output embedding [V, D], upcast."""

    scaled: Tensor
    weight: Tensor


def _upcast(
    hidden: Tensor, weight: Tensor, ref_hidden: Tensor, ref_weight: Tensor | None, options: Options
) -> tuple[_Model, _Model]:
    """Upcast policy and reference; if `ref_weight` is None they share one copy of the weight."""
    upcast_weight = weight.to(options.dtype)
    upcast_ref = upcast_weight if ref_weight is None else ref_weight.to(options.dtype)
    scaled, ref_scaled = (h.to(options.dtype) / options.temperature for h in (hidden, ref_hidden))
    return _Model(scaled, upcast_weight), _Model(ref_scaled, upcast_ref)


def _chunk_kl(
    policy: _Model, reference: _Model, chunk: slice, banned: Tensor, options: Options
) -> tuple[Tensor, Tensor]:
    """KL [C] and its gradient with respect to the logits [C, V], p (log p - log q - KL)."""
    log_p, log_q = (
        chunk_logits(model.scaled[chunk], model.weight, banned, options).log_softmax(1)
        for model in (policy, reference)
    )
    p = log_p.exp()
    log_ratio = log_p.sub_(log_q).index_fill_(1, banned, 0)  # no -inf minus -inf
    kl = (p * log_ratio).sum(1)
    return kl, p.mul_(log_ratio.sub_(kl[:, None]))


class _TokenKL(torch.autograd.Function):
    """KL [N], differentiable in hidden and weight; the reference is a constant."""

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
        policy, reference = _upcast(hidden, weight, ref_hidden, ref_weight, options)
        kl = policy.scaled.new_empty(len(hidden))
        # With a frozen weight, compute the gradient here, so that backward needs no logits.
        frozen_weight = ctx.needs_input_grad[:2] == (True, False)
        grad_hidden = torch.empty_like(policy.scaled) if frozen_weight else None
        for chunk in options.chunks:
            kl[chunk], grad_logits = _chunk_kl(policy, reference, chunk, banned, options)
            if grad_hidden is not None:
                grad_chunk = matmul(grad_logits, policy.weight, options)
                grad_hidden[chunk] = grad_chunk / options.temperature
        ctx.save_for_backward(hidden, weight, ref_hidden, ref_weight, banned, grad_hidden)
        ctx.options = options
        return kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        hidden, weight, ref_hidden, ref_weight, banned, saved_grad = ctx.saved_tensors
        options: Options = ctx.options
        if saved_grad is not None:
            return (saved_grad * grad_output[:, None]).to(hidden.dtype), *[None] * 5
        policy, reference = _upcast(hidden, weight, ref_hidden, ref_weight, options)
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(policy.weight)
        for chunk in options.chunks:
            _, grad_logits = _chunk_kl(policy, reference, chunk, banned, options)
            grad_logits.mul_(grad_output[chunk, None])
            grad_hidden[chunk] = matmul(grad_logits, policy.weight, options) / options.temperature
            grad_weight.addmm_(grad_logits.T, policy.scaled[chunk])
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
    """Compute KL(policy ‖ reference) [N] over the whole vocabulary at each token.

        p = softmax(hidden · weightᵀ / temperature), 0 at banned ids; q: same of the reference
        KL = Σ p (log p - log q)        ∂KL / ∂logit = p (log p - log q - KL)

    The reference is a constant: hidden and weight get gradients through p only. If `ref_weight` is
    None, the reference uses `weight` detached.

    Args:
        hidden: [N, D], hidden states of the policy.
        ref_hidden: [N, D′], hidden states of the reference.
        weight: [V, D], output embedding of the policy.
        ref_weight: [V, D′], output embedding of the reference; None: `weight`, D′ = D.
        temperature: above 0, divides the logits of both.
        banned_ids: ids of probability 0 in both; None: none.
        chunk_tokens: tokens per chunk of logits, also in backward; None: chosen automatically.

    Returns:
        [N], nats, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes disagree, an id or option is out of range, or all ids are banned.
    """
    used_weight = weight if ref_weight is None else ref_weight
    shapes, width = [list(ref_hidden.shape), list(used_weight.shape)], used_weight.shape[-1]
    if shapes != [[len(hidden), width], [len(weight), width]]:
        raise ValueError(f"ref_hidden, ref_weight: got {shapes}, wanted [N, D], [V, D]")
    banned, options = checked_options(hidden, weight, temperature, banned_ids, chunk_tokens)
    return _TokenKL.apply(hidden, weight, ref_hidden, ref_weight, banned, options)  # type: ignore[no-any-return, no-untyped-call]
