"""Arguments of shared-prefix attention, and heads folded onto the key heads that they share.

Shapes: B responses ("suffixes") of T tokens, the last R of which are queries; g prompts
("prefixes") of up to P tokens, at most G responses to one; H query heads and K key heads, K
dividing H, of D channels.
"""

from typing import NamedTuple

from torch import Tensor

from rlhf.kernels.prefix_groups import PrefixGroups


class SharedPrefixInputs(NamedTuple):
    """Arguments of all implementations of the attention.

    Attributes:
        query: [B, H, R, D].
        key: [B, K, T, D].
        value: [B, K, T, D].
        prefix_key: [g, K, P, D].
        prefix_value: [g, K, P, D].
        groups: which prefix each response continues.
        prefix_lens: [g] int64, tokens of each prefix; None: P for all.
        scale: factor of the logits before the softmax.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    prefix_key: Tensor
    prefix_value: Tensor
    groups: PrefixGroups
    prefix_lens: Tensor | None
    scale: float


# Not einops: these run for each decoded token in every layer, and with `rearrange` here and in
# PrefixGroups a small decode_attention takes 25 % longer.
def fold_heads(rows: Tensor, key: Tensor) -> Tensor:
    """Concatenate the queries of one key head: [·, H, R, D] to [·, K, H/K·R, D]."""
    if rows.shape[1] == key.shape[1]:
        return rows
    return rows.reshape(len(rows), key.shape[1], -1, rows.shape[3])


def unfold_heads(folded: Tensor, heads: int) -> Tensor:
    """Undo `fold_heads`: [·, K, H/K·R, D] to [·, H, R, D], H = `heads`."""
    if folded.shape[1] == heads:
        return folded
    return folded.reshape(len(folded), heads, -1, folded.shape[3])


def repeat_heads(rows: Tensor, heads: int) -> Tensor:
    """[·, K, T, D] with each head repeated to [·, H, T, D]; unchanged where K is H."""
    return rows if rows.shape[1] == heads else rows.repeat_interleave(heads // rows.shape[1], dim=1)
