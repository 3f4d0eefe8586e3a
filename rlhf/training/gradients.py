"""What every training loop does with gradients."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from rlhf.config.schema import RewardConfig, SFTConfig
from rlhf.errors import DivergedError
from rlhf.storage.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from rlhf.training.checkpoint_manager import by_index, restore_parameters
from rlhf.training.optimizers import adamw


class OptimizerLoop:
    """AdamW with clipped gradients; the learning rate rises linearly, then falls to 5 %.

    Args:
        parameters: those that require a gradient move.
        options: optimizer, lr, warmup_steps, weight_decay, max_grad_norm.
        steps: planned optimizer steps.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], options: SFTConfig | RewardConfig, steps: int
    ) -> None:
        self.options, self.steps, self.done = options, steps, 0
        self.parameters = [value for value in parameters if value.requires_grad]
        self.optimizer = adamw(
            options.optimizer, self.parameters, lr=options.lr, weight_decay=options.weight_decay
        )

    def step(self, loss: Tensor) -> dict[str, float]:
        """Move against the gradient of `loss`; the gradient's norm and the rate used.

        Raises:
            DivergedError: the loss or its gradient is not finite; the weights are untouched.
        """
        self.optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(self.parameters, self.options.max_grad_norm)
        if not finite(loss.item(), norm):
            raise DivergedError(
                f"the loss is {loss.item()}, the gradient norm {norm}",
                f"optimizer step {self.done}",
                "lower the learning rate",
            )
        rate = self.options.lr * self.lr_multiplier()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.done += 1
        return {"optim/grad_norm": norm, "lr": rate}

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Parameters and optimizer, tensors and JSON."""
        tensors, values = optimizer_tensors(self.optimizer)
        parts = {"parameters": by_index(self.parameters), "optimizer": tensors}
        return parts, {"done": self.done, "optimizer": values}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Undo `state`, which stands in the checkpoint as `descent`. Raises: DataError."""
        restore_parameters(by_index(self.parameters), checkpoint, "parameters")
        state = checkpoint.state["descent"]
        restore_optimizer(self.optimizer, checkpoint.tensors["optimizer"], state["optimizer"])
        self.done = state["done"]

    def lr_multiplier(self) -> float:
        rise = (self.done + 1) / max(1, self.options.warmup_steps)
        fall = (self.steps - self.done) / max(1, self.steps - self.options.warmup_steps)
        return min(rise, max(0.05, min(1.0, fall)))


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """L2 norm of the gradient before it was scaled down to at most `max_norm`; 0 without one."""
    with_gradient = [value for value in parameters if value.grad is not None]
    return float(nn.utils.clip_grad_norm_(with_gradient, max_norm)) if with_gradient else 0.0


def finite(*values: float) -> bool:
    """Whether none of the metrics is NaN or infinite."""
    return all(math.isfinite(value) for value in values)
