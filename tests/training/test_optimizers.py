"""AdamW with moments of 8, 2 and paged 2 bytes: the first step, the memory, and a resume."""

import json
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlhf.config.schema import OptimizerKind
from rlhf.storage.checkpoint import optimizer_tensors, restore_optimizer
from rlhf.training.optimizers import adamw

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
KINDS: tuple[OptimizerKind, ...] = get_args(OptimizerKind)


def fresh(kind: OptimizerKind) -> tuple[list[nn.Parameter], Optimizer]:
    """A matrix large enough to be packed and a vector that is not, in groups of their own."""
    torch.manual_seed(1)
    values = [nn.Parameter(torch.randn(96, 96)), nn.Parameter(torch.randn(5))]
    groups = [{"params": values[:1]}, {"params": values[1:], "lr": 2e-2}]
    return values, adamw(kind, groups, lr=1e-2, eps=1e-5)


def train_steps(values: list[nn.Parameter], optimizer: Optimizer, steps: int) -> None:
    for _ in range(steps):
        for value in values:
            value.grad = value.detach() ** 3 - value.detach()
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_step_is_the_rate_against_the_gradients_sign(kind: OptimizerKind) -> None:
    values, optimizer = fresh(kind)
    before = [value.detach().clone() for value in values]
    for value in values:
        value.grad = torch.where(value.detach() > 0, 3.0, -0.5)
    optimizer.step()
    for value, old, rate in zip(values, before, (1e-2, 2e-2), strict=True):
        expected = old - rate * torch.where(old > 0, 1.0, -1.0)
        torch.testing.assert_close(value.detach(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "least", "most"), [(KINDS[0], 8.0, 8.01), (KINDS[1], 2.0, 2.3)])
def test_bytes_of_state_a_parameter(kind: OptimizerKind, least: float, most: float) -> None:
    value = nn.Parameter(torch.randn(256, 256))
    optimizer = adamw(kind, [value], lr=1e-2)
    train_steps([value], optimizer, 1)
    state_tensors = [x for x in optimizer.state[value].values() if isinstance(x, Tensor)]
    assert least <= sum(x.numel() * x.element_size() for x in state_tensors) / value.numel() <= most


@pytest.mark.parametrize("kind", KINDS)
def test_a_resume_is_bit_equal(kind: OptimizerKind) -> None:
    values, optimizer = fresh(kind)
    train_steps(values, optimizer, 3)
    tensors, state = optimizer_tensors(optimizer)
    restored_values, restored_optimizer = fresh(kind)
    with torch.no_grad():
        for new, old in zip(restored_values, values, strict=True):
            new.copy_(old)
    restore_optimizer(restored_optimizer, tensors, json.loads(json.dumps(state)))
    train_steps(values, optimizer, 3)
    train_steps(restored_values, restored_optimizer, 3)
    assert all(torch.equal(new, old) for new, old in zip(restored_values, values, strict=True))
