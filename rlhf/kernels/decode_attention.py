"""Shared-prefix attention of one token per response; shapes as in `shared_prefix_inputs`."""

import torch
from torch import Tensor

from rlhf.kernels.shared_prefix_inputs import SharedPrefixInputs, fold_heads, unfold_heads


def decode_attention(
    inputs: SharedPrefixInputs, window: int | None = None, column: Tensor | None = None
) -> Tensor:
    """Compute the attention of one token per response, on any device, without copying the keys.

    Args:
        inputs: arguments, R is 1; key and value have K heads.
        window: tokens that a query attends to, itself included; None: no limit.
        column: [1] int64, column of the query's own key among T, later ones are masked; None: the
            last one.

    Returns:
        [B, H, 1, D].
    """
    query, key, value, prefix_key, prefix_value, groups, _, scale = inputs
    heads, width = query.shape[1], prefix_key.shape[2]
    prefix_logits = _logits(fold_heads(groups.group(query), prefix_key), prefix_key) * scale
    prefix_logits = _fill(prefix_logits, _prefix_mask(inputs, window, column))
    suffix_logits = _logits(fold_heads(query, key), key) * scale
    suffix_logits = _fill(suffix_logits, _suffix_mask(inputs, window, column))
    prefix_logits = groups.ungroup(unfold_heads(prefix_logits, heads))
    logits = torch.cat([prefix_logits, unfold_heads(suffix_logits, heads)], dim=3)
    weights = logits.softmax(3, dtype=torch.float32).to(value.dtype)
    prefix_out = fold_heads(groups.group(weights[..., :width]), prefix_key) @ prefix_value
    suffix_out = fold_heads(weights[..., width:], key) @ value
    return groups.ungroup(unfold_heads(prefix_out, heads)) + unfold_heads(suffix_out, heads)


def _logits(query: Tensor, key: Tensor) -> Tensor:
    """Products [·, K, R, T] of queries [·, K, R, D] and keys [·, K, T, D].

    Of half precision on CUDA they are float32 sums, which the query's dtype would round before the
    softmax; torch cannot differentiate these.
    """
    sums_float32 = query.is_cuda and query.dtype.itemsize < 4 and not torch.is_grad_enabled()
    if not sums_float32:
        return query @ key.mT
    rows, keys = query.flatten(0, 1), key.flatten(0, 1)  # a view, also of a cache's first columns
    logits: Tensor = torch.bmm(rows, keys.mT, out_dtype=torch.float32).unflatten(0, key.shape[:2])
    return logits


def _fill(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits, -inf where the mask is true."""
    return logits if mask is None else logits.masked_fill(mask, -torch.inf)


def _prefix_mask(
    inputs: SharedPrefixInputs, window: int | None, column: Tensor | None
) -> Tensor | None:
    """Prefix keys that a token does not attend to, [g, 1, 1, P] or [P] bool; None: there is none.

    The token in column c of a suffix has the position len + c after a prefix of len tokens.
    """
    lens = inputs.prefix_lens
    if lens is None and window is None:
        return None
    size, last = inputs.prefix_key.shape[2], inputs.key.shape[2] - 1
    ends = size if lens is None else lens[:, None, None, None]
    return _masked(inputs, size, ends, ends + (last if column is None else column), window)


def _suffix_mask(
    inputs: SharedPrefixInputs, window: int | None, column: Tensor | None
) -> Tensor | None:
    """Suffix keys that a token does not attend to, [T] bool; None: there is none."""
    if column is None and window is None:
        return None
    width = inputs.key.shape[2]
    position = width - 1 if column is None else column
    return _masked(inputs, width, position + 1, position, window)


def _masked(
    inputs: SharedPrefixInputs,
    width: int,
    end: Tensor | int,
    position: Tensor | int,
    window: int | None,
) -> Tensor:
    """Which of `width` keys are at `end` or later, or too far before the token at `position`."""
    keys = torch.arange(width, device=inputs.query.device)
    masked = keys >= end
    return masked if window is None else masked | (position - keys >= window)
