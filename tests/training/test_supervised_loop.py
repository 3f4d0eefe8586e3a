"""OptimizerLoop: its schedule by hand, the clip, and no step on numbers that are not finite."""

import pytest
import torch
from torch import nn

from rlhf.config.schema import SFTConfig
from rlhf.errors import DivergedError
from rlhf.training.data_order import num_steps, shuffled_batches
from rlhf.training.supervised_loop import OptimizerLoop


def test_the_rate_rises_for_the_warm_up_then_falls_to_a_twentieth() -> None:
    weight = nn.Parameter(torch.ones(2))
    loop = OptimizerLoop([weight], SFTConfig(lr=1.0, warmup_steps=2, max_grad_norm=9.0), steps=6)
    learning_rates = [loop.step(weight.square().sum())["lr"] for _ in range(7)]
    assert learning_rates == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.05])


def test_the_norm_is_reported_before_it_is_clipped() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    loop = OptimizerLoop([weight], SFTConfig(max_grad_norm=1.0), steps=1)
    assert loop.step(weight.square().sum() / 2)["optim/grad_norm"] == pytest.approx(5.0)
    assert weight.grad is not None and float(weight.grad.norm()) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_moves_nothing(bad: float) -> None:
    weight = nn.Parameter(torch.ones(2))
    loop = OptimizerLoop([weight], SFTConfig(), steps=1)
    with pytest.raises(DivergedError, match="optimizer step 0"):
        loop.step((weight * bad).sum())
    assert torch.equal(weight.detach(), torch.ones(2))


def test_batches_go_on_after_the_steps_taken() -> None:
    weight = nn.Parameter(torch.ones(2))
    loop = OptimizerLoop([weight], SFTConfig(batch_size=4, epochs=2), steps=6)
    order = [rows.tolist() for rows in loop.batches(10, seed=1)]
    assert order == [rows.tolist() for rows in shuffled_batches(10, 4, seed=1, epochs=2)]
    for _ in range(4):
        loop.step(weight.square().sum())
    assert [rows.tolist() for rows in loop.batches(10, seed=1)] == order[4:]
    assert not loop.finished


def test_batches_cover_every_row_each_epoch() -> None:
    batches = list(shuffled_batches(10, 4, seed=1, epochs=2))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    assert len(batches) == num_steps(10, 4, 2)
    first, second = torch.cat(batches[:3]).tolist(), torch.cat(batches[3:]).tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
