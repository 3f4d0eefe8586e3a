"""What passes of real models keep and hold, counted tensor by tensor, against the cost model."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from planned import SETUP, wide_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlhf.config import ModelConfig
from rlhf.models.policy import build_policy
from rlhf.models.shape import ModelShape, read_shape
from rlhf.tools.setup import Setup
from rlhf.tools.transients import (
    activations,
    backward_workspace,
    forward_workspace,
    layer_activations,
)

CASES = [("lora", "float32"), ("lora", "bfloat16"), ("full", "float32")]


def storages(value: Any) -> list[Any]:
    tensors = (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
    return [tensor.untyped_storage() for tensor in tensors]


class LiveBytes(TorchDispatchMode):
    """Inside the block, `peak` is the most that tensors made there held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {storage._cdata for storage in storages((args, kwargs))}
        for storage in storages(result):
            if storage._cdata not in self.alive | given:
                self.alive.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.drop, storage._cdata, storage.nbytes())
        return result

    def drop(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


@dataclass
class Pass:
    """A forward pass of four rows, the storages of the weights, and the setup that describes it."""

    run: Callable[[], Tensor]
    weights: set[int]
    setup: Setup
    shape: ModelShape

    @property
    def tokens(self) -> int:
        return 4 * self.setup.row


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wide_model(tmp_path_factory.mktemp("wide"))


def prepared(path: Path, train: Any, dtype: Any, again: bool) -> Pass:
    llava = small.load(path, dtype)
    build_policy(llava, ModelConfig(train=train, lora_rank=4), temperature=1.0)
    llava.checkpoints_layers = again
    prompts, responses = small.prompts_of(llava, path), small.responses_of(llava)
    llava.vision.features([picture for row in prompts.images for picture in row])
    longest = int((prompts.spans.lengths + responses.spans.lengths).max())
    setup = replace(
        SETUP,
        prompt_tokens=longest - 8,
        max_new_tokens=8,
        minibatch_size=4,
        dtype=dtype,
        train=train,
        lora_rank=4,
        gradient_checkpointing=again,
    )
    return Pass(
        lambda: llava.response_hidden(prompts, responses),
        {value.untyped_storage()._cdata for value in llava.model.parameters()},
        setup,
        read_shape(llava.base),
    )


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("train", "dtype"), CASES)
@pytest.mark.parametrize("folder", ["tiny", "wide"])
def test_activations_are_what_autograd_saves(
    folder: str, train: str, dtype: str, again: bool, request: pytest.FixtureRequest
) -> None:
    one = prepared(request.getfixturevalue(folder), train, dtype, again)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = one.run()
    found = sum(x.untyped_storage().nbytes() for key, x in kept.items() if key not in one.weights)
    again_layer = one.tokens * layer_activations(one.shape, one.setup) if again else 0
    assert hidden.requires_grad
    assert activations(one.shape, one.setup) - again_layer == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("train", "dtype"), CASES)
@pytest.mark.parametrize("folder", ["tiny", "wide"])
def test_the_peak_of_an_update_is_that_of_its_live_tensors(
    folder: str, train: str, dtype: str, again: bool, request: pytest.FixtureRequest
) -> None:
    one = prepared(request.getfixturevalue(folder), train, dtype, again)
    one.run().float().sum().backward()  # from here on gradients are there and only added to
    with LiveBytes() as live:
        one.run().float().sum().backward()
    workspace = one.tokens * backward_workspace(one.shape, one.setup)
    planned = activations(one.shape, one.setup) + workspace
    assert planned == pytest.approx(live.peak, rel=0.15)


@pytest.mark.parametrize(("train", "dtype"), CASES)
@pytest.mark.parametrize("folder", ["tiny", "wide"])
def test_the_workspace_of_scoring_is_that_of_its_live_tensors(
    folder: str, train: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    one = prepared(request.getfixturevalue(folder), train, dtype, False)
    with torch.no_grad(), LiveBytes() as live:
        one.run()
    planned = one.tokens * forward_workspace(one.shape, one.setup)
    assert planned == pytest.approx(live.peak, rel=0.15)
