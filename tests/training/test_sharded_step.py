"""Clipping and AdamW on parameters of which some are sharded and some are whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.models.sharding import ShardedModels, is_sharded, shard_like
from rlhf.parallel.world import World
from rlhf.training.gradients import clip_gradients
from rlhf.training.optimizers import adamw
from tests.support import tiny_models
from tests.support.processes import on_processes


def stepped(world: World, tiny: Path, max_norm: float) -> tuple[float, dict[str, Any]]:
    """The gradient norm, and the trained weights after two steps, whole on process 0."""
    llava = tiny_models.load(tiny)
    llava.train_language_model(embeddings=True)
    sharding = ShardedModels([llava], world=world)
    named = {name: x for name, x in llava.model.named_parameters() if x.requires_grad}
    assert {is_sharded(x) for x in named.values()} == ({False, True} if world.size > 1 else {False})
    optimizer = adamw("adamw", list(named.values()), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for value in named.values():
            value.grad = shard_like(value, torch.randn(value.shape, generator=generator))
        norm = clip_gradients(list(named.values()), max_norm)
        optimizer.step()
    return norm, {name: x.detach().numpy() for name, x in sharding.gather_all(named).items()}


def test_a_step_is_that_of_whole_parameters(tiny: Path) -> None:
    ((norm, expected),) = on_processes(1, stepped, tiny, 1e9)
    size = sum(value.size for value in expected.values())
    assert norm == pytest.approx(size**0.5, rel=0.05)
    first, second = on_processes(2, stepped, tiny, 1e9)
    assert first[0] == second[0] == pytest.approx(norm, rel=1e-6)
    assert all((first[1][name] == value).all() for name, value in expected.items())


@pytest.mark.processes
def test_the_norm_is_clipped_over_all_of_them(tiny: Path) -> None:
    ((norm, expected),) = on_processes(1, stepped, tiny, 1.0)
    (clipped, weights), _ = on_processes(2, stepped, tiny, 1.0)
    assert clipped == pytest.approx(norm, rel=1e-6)
    for name, value in expected.items():
        assert np.allclose(weights[name], value, rtol=1e-5, atol=1e-6), name
