"""Early stopping: when it stops, and which weights come back."""

import pytest
import torch
from torch import nn

from rlhf.training.early_stopping import EarlyStopping

LOSSES = (0.7, 0.5, 0.6, 0.5, 0.9)  # after steps 1 to 5; the lowest first comes at step 2


@pytest.mark.parametrize(
    ("patience", "stops"), [(0, [False] * 5), (2, [False] * 3 + [True] * 2), (4, [False] * 5)]
)
def test_training_stops_when_the_patience_ends(patience: int, stops: list[bool]) -> None:
    early_stopping = EarlyStopping([nn.Parameter(torch.zeros(1))], patience)
    assert [early_stopping.update(step, loss) for step, loss in enumerate(LOSSES, 1)] == stops
    assert (early_stopping.best_loss, early_stopping.best_step) == (0.5, 2)


def test_the_weights_of_the_lowest_loss_come_back() -> None:
    weight = nn.Parameter(torch.zeros(2))
    early_stopping = EarlyStopping([weight], patience=9)
    for step, loss in enumerate(LOSSES, 1):
        nn.init.constant_(weight, step)
        early_stopping.update(step, loss)
    early_stopping.restore_best_weights()
    assert weight.tolist() == [2, 2]
