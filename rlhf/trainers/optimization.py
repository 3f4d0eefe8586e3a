"""What every training loop does with gradients and batches."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_linear(optimizer: Optimizer, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Learning rate that rises linearly for `warmup_steps`, then falls linearly to 5 %."""

    def factor(step: int) -> float:
        rise = (step + 1) / max(1, warmup_steps)
        fall = (total_steps - step) / max(1, total_steps - warmup_steps)
        return min(rise, max(0.05, min(1.0, fall)))

    return LambdaLR(optimizer, factor)


def adamw(
    parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float, eps: float = 1e-8
) -> AdamW:
    """AdamW over the parameters that train."""
    trained = [value for value in parameters if value.requires_grad]
    return AdamW(trained, lr=lr, weight_decay=weight_decay, eps=eps)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """L2 norm of the gradient before it was scaled down to at most `max_norm`; 0 without one."""
    with_gradient = [value for value in parameters if value.grad is not None]
    return float(nn.utils.clip_grad_norm_(with_gradient, max_norm)) if with_gradient else 0.0


def finite(*values: float) -> bool:
    """Whether none of the figures is NaN or infinite."""
    return all(math.isfinite(value) for value in values)


def shuffled_batches(count: int, size: int, *, seed: int, epochs: int) -> Iterator[Tensor]:
    """Row indices of each optimizer step: every epoch a new order, the last batch may be short.

    The order is a function of (seed, epoch) only.
    """
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        yield from torch.randperm(count, generator=generator).split(size)


def steps_of(count: int, size: int, epochs: int) -> int:
    """Optimizer steps that `shuffled_batches` yields."""
    return epochs * math.ceil(count / size)
