"""Layers that run again in the backward: the same gradients to the bit, from less that is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.config.schema import CriticKind, LoraType, SamplingConfig
from rlhf.generation.sampler import generate
from tests.models.test_critic import CASES, KINDS, built_policy, shake
from tests.support import tiny_models


def gradients(
    tiny: Path, train: str, lora_type: LoraType, kind: CriticKind, checkpointed: bool
) -> tuple[list[Tensor | None], int]:
    """Gradients of log-probabilities and values, and the numbers kept for the backward."""
    policy, saved_values = built_policy(tiny, kind, train, lora_type=lora_type), 0
    shake(policy.trainable_parameters() | policy.critic_parameters())
    for llava in (policy.llava, policy.critic.llava):
        llava.gradient_checkpointing = checkpointed

    def keep(value: Any) -> Any:
        nonlocal saved_values
        saved_values += value.numel()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        prompts = tiny_models.prompts_of(policy.llava, tiny)
        scores = policy.evaluate(prompts, tiny_models.responses_of(policy.llava))
    (scores.logprobs.sum() + scores.values.square().sum()).backward()
    trained = [*policy.trainable_parameters().values(), *policy.critic_parameters().values()]
    return [value.grad for value in trained], saved_values


@pytest.mark.parametrize(
    ("train", "lora_type", "kind"),
    [*((train, "lora", kind) for train, kind in CASES), *(("lora", "alora", x) for x in KINDS)],
)
def test_gradients_are_the_same_and_fewer_values_are_saved(
    tiny: Path, train: str, lora_type: LoraType, kind: CriticKind
) -> None:
    """Of two adapters on one base model each layer runs again under the one of its first time."""
    torch.manual_seed(0)
    plain, all_saved = gradients(tiny, train, lora_type, kind, False)
    torch.manual_seed(0)
    checkpointed, few_saved = gradients(tiny, train, lora_type, kind, True)
    for expected, gradient in zip(plain, checkpointed, strict=True):
        assert (expected is None) == (gradient is None)
        if (
            expected is not None and gradient is not None
        ):  # the last layer sums over all its rows again
            torch.testing.assert_close(expected, gradient, atol=1e-4, rtol=1e-4)
    assert any(grad is not None and bool(grad.any()) for grad in plain)
    assert few_saved < all_saved / 5


def test_generation_keeps_its_cache(tiny: Path) -> None:
    policy = built_policy(tiny, "shared_detached")
    prompts, sampling = tiny_models.prompts_of(policy.llava, tiny), SamplingConfig(max_new_tokens=5)
    plain, _ = generate(policy.llava, prompts, sampling)
    policy.llava.gradient_checkpointing = True
    checkpointed, _ = generate(policy.llava, prompts, sampling)
    assert torch.equal(plain.tokens, checkpointed.tokens)
