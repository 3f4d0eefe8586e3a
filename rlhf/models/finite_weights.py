"""Refuse weights that are not numbers, whatever file they come from."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from rlhf.errors import UsageError


def check_finite(weights: Iterable[tuple[str, Tensor]], where: str | Path) -> None:
    """Refuse weights that hold NaN or infinity: every score and gradient would be NaN, too.

    Args:
        weights: names and tensors of any dtype; quantized ones are not looked at.
        where: the file or directory that they come from, for the message.

    Raises:
        UsageError: a tensor is not finite; the first one is named.
    """
    for name, weight in weights:
        if weight.is_floating_point() and not _is_finite(weight):
            bad = int((~torch.isfinite(weight)).sum())
            what = f"{bad} of {weight.numel()} weights of {name} are NaN or infinite"
            raise UsageError(what, str(where), "take a checkpoint from before training diverged")


def _is_finite(weight: Tensor) -> bool:
    """Look at the sum first, which needs no memory, then, if it overflows, at each number."""
    total = weight.detach().sum(dtype=torch.float32)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(weight).all())
