"""Saved activations and peak memory of real models, counted by tensor, against the estimates."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.config.schema import ModelConfig, PPOConfig
from rlhf.models.policy import build_policy
from rlhf.planning.activation_memory import (
    backward_workspace_bytes,
    forward_workspace_bytes,
    kv_cache_bytes,
    layer_activation_bytes,
    lora_copy_bytes,
    saved_activation_bytes,
)
from rlhf.planning.model_dims import ModelDims, read_dims
from rlhf.planning.workload import Workload
from rlhf.ppo.updater import Updater
from tests.support import tiny_models
from tests.support.live_bytes import LiveBytes
from tests.support.planned import WORKLOAD

CASES = [
    ("lora", "lora", "float32"),
    ("lora", "lora", "bfloat16"),
    ("lora", "alora", "float32"),
    ("lora", "alora", "bfloat16"),
    ("full", "lora", "float32"),
]


@dataclass
class Pass:
    """A forward pass of four rows, the storages of the weights, and the workload it matches."""

    run: Callable[[], Tensor]
    weights: set[int]
    workload: Workload
    dims: ModelDims

    @property
    def tokens(self) -> int:
        return self.workload.forward_tokens(4)

    @property
    def prompts(self) -> int:
        """Bytes of the cached prompts, gathered for the pass."""
        workload = self.workload
        return (
            kv_cache_bytes(self.dims, workload, 4, workload.prompt_tokens)
            if workload.uses_alora
            else 0
        )


def prepare_pass(path: Path, train: Any, lora_type: Any, dtype: Any, checkpointing: bool) -> Pass:
    llava = tiny_models.load(path, dtype)
    config = ModelConfig(train=train, lora_rank=4, lora_type=lora_type)
    build_policy(llava, config, temperature=1.0)
    llava.gradient_checkpointing = checkpointing
    batch = tiny_models.prompts_of(llava, path)  # below: one question about four images
    prompts = replace(batch.select(torch.zeros(4, dtype=torch.int64)), images=batch.images)
    responses = tiny_models.responses_of(llava).select(torch.full((4,), 2))
    for (image,) in prompts.images:
        llava.vision.features(image)
    longest = int((prompts.spans.lengths + responses.spans.lengths).max())
    suffix_tokens = len(llava.adapters.invocation) + responses.spans.max_len
    workload = replace(
        WORKLOAD,
        prompt_tokens=longest - 8,
        max_new_tokens=8,
        minibatch_size=4,
        dtype=dtype,
        train=train,
        lora_rank=4,
        lora_type=lora_type,
        gradient_checkpointing=checkpointing,
        triton=False,
    )
    if lora_type == "alora":
        with torch.no_grad():
            llava.response_hidden_states(prompts, responses)  # from here on the prompts are cached
        prefix_tokens = prompts.spans.max_len - len(llava.adapters.invocation)
        workload = replace(workload, prompt_tokens=prefix_tokens, max_new_tokens=suffix_tokens)
    return Pass(
        lambda: llava.response_hidden_states(prompts, responses),
        {value.untyped_storage()._cdata for value in llava.model.parameters()},
        workload,
        read_dims(llava.base),
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("train", "lora_type", "dtype"), CASES)
@pytest.mark.parametrize("directory", ["tiny", "wide"])
def test_activations_are_what_autograd_saves(
    directory: str,
    train: str,
    lora_type: str,
    dtype: str,
    checkpointing: bool,
    request: pytest.FixtureRequest,
) -> None:
    forward_pass = prepare_pass(
        request.getfixturevalue(directory), train, lora_type, dtype, checkpointing
    )
    saved: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        hidden = forward_pass.run()
    saved_bytes = sum(
        x.untyped_storage().nbytes() for key, x in saved.items() if key not in forward_pass.weights
    )
    assert hidden.requires_grad
    planned = saved_activation_bytes(forward_pass.dims, forward_pass.workload)
    if checkpointing:  # that layer is saved later; autograd does not save the prompts
        layer = forward_pass.tokens * layer_activation_bytes(
            forward_pass.dims, forward_pass.workload
        )
        planned -= (
            layer + lora_copy_bytes(forward_pass.dims, forward_pass.workload) + forward_pass.prompts
        )
    else:
        planned += forward_pass.prompts
    # Concatenations are not planned; they count beside so small a model.
    assert planned == pytest.approx(saved_bytes, rel=0.1 if lora_type == "alora" else 0.05)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("train", "lora_type", "dtype"), CASES)
@pytest.mark.parametrize("directory", ["tiny", "wide"])
def test_the_peak_of_an_update_is_that_of_its_live_tensors(
    directory: str,
    train: str,
    lora_type: str,
    dtype: str,
    checkpointing: bool,
    request: pytest.FixtureRequest,
) -> None:
    forward_pass = prepare_pass(
        request.getfixturevalue(directory), train, lora_type, dtype, checkpointing
    )
    forward_pass.run().float().sum().backward()  # from here on gradients exist and are added to
    with LiveBytes() as live:
        forward_pass.run().float().sum().backward()
    workspace = backward_workspace_bytes(forward_pass.dims, forward_pass.workload, 4)
    planned = saved_activation_bytes(forward_pass.dims, forward_pass.workload) + workspace
    planned += (
        0 if checkpointing else forward_pass.prompts
    )  # otherwise they are among the activations
    assert planned == pytest.approx(live.peak, rel=0.15)


@pytest.mark.parametrize(("train", "lora_type", "dtype"), CASES)
@pytest.mark.parametrize("directory", ["tiny", "wide"])
def test_the_workspace_of_scoring_is_that_of_its_live_tensors(
    directory: str, train: str, lora_type: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    forward_pass = prepare_pass(request.getfixturevalue(directory), train, lora_type, dtype, False)
    with torch.no_grad(), LiveBytes() as live:
        forward_pass.run()
    planned = (
        forward_pass.tokens * forward_workspace_bytes(forward_pass.dims, forward_pass.workload)
        + forward_pass.prompts
    )
    assert planned == pytest.approx(live.peak, rel=0.15)


@pytest.mark.parametrize("critic", ["adapter", "separate"])
def test_a_critic_with_its_own_forward_adds_no_activations(wide: Path, critic: Any) -> None:
    def peak(kind: Any) -> int:
        llava, config = tiny_models.load(wide), ModelConfig(lora_rank=4)
        policy = build_policy(llava, config, temperature=1.0, critic=kind)
        batch = tiny_models.minibatch_of(policy, wide)
        updater = Updater(PPOConfig(critic=kind, critic_fit="gradient"), policy, steps=2)
        updater.step(batch, train_policy=True)  # from here on gradients and moments exist
        with LiveBytes() as live:
            updater.step(batch, train_policy=True)
        return live.peak

    assert peak(critic) < 1.1 * peak("shared_detached")
