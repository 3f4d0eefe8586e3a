"""Variants of AdamW: float32 moments, 8-bit moments, and paged 8-bit moments."""

from collections.abc import Iterable
from typing import Any

import bitsandbytes
from torch.optim import AdamW, Optimizer

from rlhf.config.schema import OptimizerKind
from rlhf.models.sharding import split_by_sharding


class ShardedAdamW(AdamW):
    """AdamW whose parameter groups may hold sharded parameters beside whole ones."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step with the whole parameters, then with the sharded ones."""
        groups = self.param_groups
        kinds = [split_by_sharding(group["params"]) for group in groups]
        try:
            for kind in filter(any, zip(*kinds, strict=True)):
                self.param_groups = [
                    {**group, "params": parameters}
                    for group, parameters in zip(groups, kind, strict=True)
                ]
                super().step(closure)
        finally:
            self.param_groups = groups


def adamw(
    kind: OptimizerKind,
    parameters: Iterable[Any],
    *,
    lr: float,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Build an AdamW optimizer with betas 0.9 and 0.999.

        adamw               two float32 moments: 8 bytes a parameter
        adamw_8bit          moments as 8-bit blocks with a scale each: 2 bytes a parameter
        paged_adamw_8bit    8-bit moments in memory that moves to the host when the GPU is full

    Tensors of less than 4,096 elements keep float32 moments.

    Args:
        kind: how the moments are stored.
        parameters: float32 parameters, or parameter groups.
        lr: learning rate of groups that do not set their own.
        eps: added to the denominator.
        weight_decay: decoupled, per step.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101; Dettmers et al. 2022, arXiv:2110.02861.
    """
    options: dict[str, Any] = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
    if kind == "adamw":
        return ShardedAdamW(parameters, **options, fused=True)
    classes = {
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    optimizer: Optimizer = classes[kind](parameters, **options)
    return optimizer
