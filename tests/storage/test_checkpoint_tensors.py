"""Optimizer state written to a checkpoint and restored from it."""

import json

import pytest
import torch

from rlhf.errors import DataError
from rlhf.storage.checkpoint import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from rlhf.storage.hashing import hash_tensors


def model_and_optimizer(seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    parameters = [
        torch.nn.Parameter(torch.randn(shape, generator=generator))
        for shape in ((3, 4), (4,), (2, 2))
    ]
    groups = [
        {"params": parameters[:1], "lr": 0.01, "weight_decay": 0.1},
        {"params": parameters[1:], "lr": 0.03, "betas": (0.8, 0.95)},
    ]
    return parameters, torch.optim.AdamW(groups, eps=1e-5, **options)


def train(parameters, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        loss = sum(((p - step) ** 2).sum() * (n + 1) for n, p in enumerate(parameters[:2]))
        loss.backward()  # the third parameter never has a gradient
        optimizer.step()


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"foreach": True}])
def test_an_optimizer_continues_to_the_bit_through_a_file(tmp_path, options):
    uninterrupted, optimizer = model_and_optimizer(**options)
    train(uninterrupted, optimizer, range(5))
    tensors, state = optimizer_tensors(optimizer)
    weights = {str(n): p for n, p in enumerate(uninterrupted)}
    groups = {"weights": weights, "optimizer": tensors}
    save_checkpoint(tmp_path, 5, tensors=groups, state={"optimizer": state})
    train(uninterrupted, optimizer, range(5, 9))
    result = load_checkpoint(tmp_path)
    for _ in range(2):  # twice: restoring must not hand the checkpoint's own memory over
        restored, restored_optimizer = model_and_optimizer(seed=1, **options)
        with torch.no_grad():
            for n, p in enumerate(restored):
                p.copy_(result.tensors["weights"][str(n)])
        restore_optimizer(
            restored_optimizer, result.tensors["optimizer"], result.state["optimizer"]
        )
        train(restored, restored_optimizer, range(5, 9))
        assert all(torch.equal(a, b) for a, b in zip(uninterrupted, restored, strict=True))
        assert (
            restored_optimizer.state_dict()["param_groups"]
            == optimizer.state_dict()["param_groups"]
        )


def test_optimizer_tensors_are_a_copy():
    parameters, optimizer = model_and_optimizer()
    train(parameters, optimizer, range(2))
    tensors, _ = optimizer_tensors(optimizer)
    before = hash_tensors(tensors.items())
    train(parameters, optimizer, range(2))
    assert hash_tensors(tensors.items()) == before


def test_values_that_are_not_tensors_survive():
    parameters, optimizer = model_and_optimizer()
    optimizer.state[parameters[0]] = {"step": 3, "state1": torch.zeros(3, 4)}
    tensors, state = optimizer_tensors(optimizer)
    assert list(tensors) == ["0.state1"]
    other_parameters, other_optimizer = model_and_optimizer(seed=1)
    restore_optimizer(other_optimizer, tensors, json.loads(json.dumps(state)))
    assert other_optimizer.state[other_parameters[0]]["step"] == 3


@pytest.mark.parametrize("shapes", [[(4, 3), (4,), (2, 2)], [(3, 4), (4,)], [(3, 4)] * 4])
def test_an_optimizer_of_another_model_is_refused(shapes):
    tensors, state = optimizer_tensors(model_and_optimizer()[1])
    other_optimizer = torch.optim.AdamW(
        [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    )
    with pytest.raises(DataError) as caught:
        restore_optimizer(other_optimizer, tensors, state)
    assert caught.value.where.startswith("parameter ")
