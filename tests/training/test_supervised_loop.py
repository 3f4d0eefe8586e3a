"""OptimizerLoop: its schedule by hand, the clip, and no step on numbers that are not finite."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from rlhf.config.schema import SFTConfig
from rlhf.errors import DivergedError
from rlhf.parallel.world import ALONE, World
from rlhf.training.data_order import num_steps, shuffled_batches
from rlhf.training.oom_retry import OOMRetry
from rlhf.training.supervised_loop import OptimizerLoop
from tests.support.processes import on_processes

ROWS = torch.arange(3)


def take(loop: OptimizerLoop, loss: Callable[[], torch.Tensor]) -> dict[str, float]:
    """One step on a loss that is computed in one microbatch."""

    def backward(rows: torch.Tensor) -> torch.Tensor:
        value = loss()
        value.backward()
        return value.detach().reshape(1)

    metrics, _ = loop.step(ROWS, lambda rows, _: [rows], backward)
    return metrics


def test_the_rate_rises_for_the_warm_up_then_falls_to_a_twentieth() -> None:
    weight = nn.Parameter(torch.ones(2))
    loop = OptimizerLoop([weight], SFTConfig(lr=1.0, warmup_steps=2, max_grad_norm=9.0), steps=6)
    learning_rates = [take(loop, lambda: weight.square().sum())["lr"] for _ in range(7)]
    assert learning_rates == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.05])


def test_the_norm_is_reported_before_it_is_clipped() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    loop = OptimizerLoop([weight], SFTConfig(max_grad_norm=1.0), steps=1)
    assert take(loop, lambda: weight.square().sum() / 2)["optim/grad_norm"] == pytest.approx(5.0)
    assert weight.grad is not None and float(weight.grad.norm()) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_moves_nothing(bad: float) -> None:
    weight = nn.Parameter(torch.ones(2))
    loop = OptimizerLoop([weight], SFTConfig(), steps=1)
    with pytest.raises(DivergedError, match="optimizer step 0"):
        take(loop, lambda: (weight * bad).sum())
    assert torch.equal(weight.detach(), torch.ones(2))


def test_batches_go_on_after_the_steps_taken() -> None:
    weight = nn.Parameter(torch.ones(2))
    loop = OptimizerLoop([weight], SFTConfig(batch_size=4, epochs=2), steps=6)
    order = [rows.tolist() for rows in loop.batches(10, seed=1)]
    assert order == [rows.tolist() for rows in shuffled_batches(10, 4, seed=1, epochs=2)]
    for _ in range(4):
        take(loop, lambda: weight.square().sum())
    assert [rows.tolist() for rows in loop.batches(10, seed=1)] == order[4:]
    assert not loop.finished


def test_batches_cover_every_row_each_epoch() -> None:
    batches = list(shuffled_batches(10, 4, seed=1, epochs=2))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    assert len(batches) == num_steps(10, 4, 2)
    first, second = torch.cat(batches[:3]).tolist(), torch.cat(batches[3:]).tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def squared_error(world: World, fails: int = 0, parts: int = 1) -> list[Any]:
    """One step on mean (w·x - 1)² over six rows, in microbatches of two rows."""
    weight, x = nn.Parameter(torch.tensor([0.5])), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    options, sizes = SFTConfig(lr=0.1, warmup_steps=0, batch_size=8, microbatch_tokens=2), []
    loop = OptimizerLoop([weight], options, steps=1, parts=parts, oom_retry=OOMRetry(8, world))

    def microbatches(rows: torch.Tensor, max_tokens: int) -> tuple[torch.Tensor, ...]:
        sizes.append(max_tokens)
        return rows.split(max_tokens)

    def backward(rows: torch.Tensor) -> torch.Tensor:
        if world.rank == world.size - 1 and len(sizes) <= fails:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        loss = (weight * x[rows] - 1).square().sum() / 6
        loss.backward()
        return loss.detach().reshape(1)

    metrics, (loss,) = loop.step(torch.arange(6), microbatches, backward)
    return [loss, metrics["optim/grad_norm"], weight.item(), sizes, loop.oom_retry.num_splits]


def test_every_mean_is_over_the_whole_step() -> None:
    """Σ(x/2 - 1)²/6 = (¼ + 0 + ¼ + 1 + 9/4 + 4)/6; the gradient is Σ2x(x/2 - 1)/6 = 49/6."""
    loss, norm, *_ = squared_error(ALONE)
    assert loss == pytest.approx(7.75 / 6) and norm == pytest.approx(49 / 6)


def test_memory_that_runs_out_splits_the_microbatches() -> None:
    expected = squared_error(ALONE)
    assert expected[3:] == [[2], 1]
    result = squared_error(ALONE, fails=1)
    assert result[3:] == [[2, 1], 2] and result[:3] == pytest.approx(expected[:3])


def test_memory_that_runs_out_on_one_process_splits_those_of_all() -> None:
    first, second = on_processes(2, squared_error, 1, 2)
    assert first[:3] == second[:3] == squared_error(ALONE, parts=2)[:3]
    assert first[3:] == second[3:] == [[2, 1], 2]


def test_splits_are_part_of_the_state() -> None:
    loop = OptimizerLoop([nn.Parameter(torch.ones(2))], SFTConfig(), steps=1)
    loop.oom_retry.num_splits = 4
    assert loop.state()[1]["num_splits"] == 4
