"""Early stopping on a held-out loss, with a copy of the best weights."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import nn

from rlhf.storage.checkpoint import Checkpoint
from rlhf.training.checkpoint_manager import by_index, restore_parameters


class EarlyStopping:
    """Tracks the lowest held-out loss and, with a patience, keeps a copy of its weights.

    Args:
        parameters: the trained parameters, copied whenever the held-out loss falls.
        patience: optimizer steps without a lower loss after which to stop; 0: never stop, and
            copy no weights.

    Attributes:
        best_loss: lowest held-out loss so far; infinite before the first.
        best_step: optimizer steps taken when it was measured.
        best_weights: copies of the parameters at that step; empty without a patience.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], patience: int) -> None:
        self.parameters, self.patience = parameters, patience
        self.best_loss = inf
        self.best_step = 0
        self.best_weights = self._copies() if patience else []

    def update(self, step: int, loss: float) -> bool:
        """Record the held-out loss after `step` optimizer steps; whether training should stop."""
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, step
            self.best_weights = self._copies() if self.patience else []
        return bool(self.patience) and step - self.best_step >= self.patience

    @torch.no_grad()
    def restore_best_weights(self) -> None:
        """Set the parameters to the weights of the lowest held-out loss."""
        for parameter, best in zip(self.parameters, self.best_weights, strict=True):
            parameter.copy_(best)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The best weights by index, and all other state as JSON."""
        values = {"best_loss": self.best_loss, "best_step": self.best_step}
        return by_index(self.best_weights), values

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state from entries `best_weights` and `early_stopping` of a checkpoint.

        Raises:
            DataError: the parameters in the checkpoint have other names or shapes.
        """
        restore_parameters(by_index(self.best_weights), checkpoint, "best_weights")
        values: Mapping[str, Any] = checkpoint.state["early_stopping"]
        self.best_loss, self.best_step = float(values["best_loss"]), values["best_step"]

    def _copies(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]
