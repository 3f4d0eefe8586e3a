"""Batches in pieces that fit into memory."""

import torch
from torch import Tensor


def microbatches(lengths: Tensor, max_tokens: int) -> list[Tensor]:
    """Rows grouped so that rows x longest row is at most `max_tokens` (one row at the least).

    Rows of like length go together; every row appears once.

    Args:
        lengths: [B] tokens of each row.
        max_tokens: padded tokens of one group.
    """
    groups: list[list[int]] = []
    widths, order = lengths.sort(stable=True)
    for row, width in zip(order.tolist(), widths.tolist(), strict=True):
        if groups and (len(groups[-1]) + 1) * width <= max_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [torch.tensor(group, dtype=torch.int64) for group in groups]
