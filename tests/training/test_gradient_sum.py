"""Gradients of parts are summed in the order of a tree, whoever has computed them."""

import pytest
import torch
from torch import nn

from rlhf.parallel.world import ALONE, World
from rlhf.training.gradient_sum import GradientSum
from tests.support.processes import on_processes

GRADIENTS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(5)


def tree(values: list[torch.Tensor]) -> torch.Tensor:
    if len(values) == 1:
        return values[0]
    pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
    return tree([pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs])


def summed(world: World, count: int) -> list[list[float] | None]:
    """The first parameter has a gradient in each part, the second in part 3, the third in none."""
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((5,), (1, 2), (3,))]
    gradient_sum = GradientSum(parameters)
    for part in world.share(count):
        parameters[0].grad = GRADIENTS[part].clone()
        if part == 3:
            parameters[1].grad = torch.tensor([[1.5, 2.5]])
        gradient_sum.add(GRADIENTS[part, :2])
        assert parameters[0].grad is None
    statistics = gradient_sum.finish(world)
    grads = [None if p.grad is None else p.grad.flatten().tolist() for p in parameters]
    return [*grads, statistics.tolist()]


@pytest.mark.parametrize("count", [4, 5, 6, 7, 8])
def test_the_sum_is_that_of_a_tree(count: int) -> None:
    expected = tree([*GRADIENTS[:count]]).tolist()
    assert summed(ALONE, count) == [expected, [1.5, 2.5], None, expected[:2]]


@pytest.mark.parametrize(("size", "count"), [(2, 4), (2, 8), (4, 4), (4, 8), (3, 6)])
def test_every_process_has_the_sum_of_one_process(size: int, count: int) -> None:
    assert on_processes(size, summed, count) == [summed(ALONE, count)] * size


def test_another_order_rounds_otherwise() -> None:
    assert GRADIENTS[:8].cumsum(0)[-1].tolist() != tree([*GRADIENTS]).tolist()
