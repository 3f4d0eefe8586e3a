"""bitsandbytes on the trunk: only the language model is packed, and gradients survive a rollout."""

from pathlib import Path
from typing import get_args

import bitsandbytes
import pytest
import small
import torch

from rlhf.checkpoint import hash_tensors
from rlhf.config import CriticKind, ModelConfig, SamplingConfig
from rlhf.models.generation import generate
from rlhf.models.policy import POLICY, build_policy

PACKED = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}


@pytest.mark.parametrize("kind", PACKED)
def test_gradients_are_alive_after_a_rollout(tiny: Path, kind: str) -> None:
    llava = small.load(tiny, quantization=kind)
    packed = [n for n, m in llava.model.named_modules() if isinstance(m, PACKED[kind])]
    assert len(packed) == 2 * 7
    assert all("language_model" in name for name in packed)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    prompts = small.prompts_of(llava, tiny)
    responses, _ = generate(llava, prompts, SamplingConfig(max_new_tokens=6))
    policy.score(prompts, responses).logprobs.sum().backward()
    norms = [v.grad.norm() for n, v in policy.trained().items() if "lora_B" in n]
    assert norms and all(float(norm) > 0 for norm in norms)


@pytest.mark.parametrize("critic", get_args(CriticKind))
@pytest.mark.parametrize("kind", ["none", *PACKED])
def test_the_loop_keeps_its_invariants_under_every_storage_and_critic(
    tiny: Path, tmp_path: Path, kind: str, critic: CriticKind
) -> None:
    """Rollout, reward, update, checkpoint, adapter: the run refuses to start if one fails."""
    llava = small.load(tiny, quantization=kind)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0, critic=critic)
    run = small.two_iterations(policy, small.prompts_of(llava, tiny), tmp_path)
    frozen = hash_tensors(policy.frozen_parameters())
    start = hash_tensors(policy.trained().items())
    run.run()
    assert hash_tensors(policy.frozen_parameters()) == frozen
    assert hash_tensors(policy.trained().items()) != start
    llava.adapters.save(POLICY, tmp_path / "adapter", llava.base)
    again = small.load(tiny, quantization=kind)
    again.adapters.load(POLICY, tmp_path / "adapter", trains=False)
    prompts, responses = small.prompts_of(llava, tiny), small.responses_of(llava)
    with torch.no_grad():
        ours = llava.response_hidden(prompts, responses)
        assert torch.equal(again.response_hidden(prompts, responses), ours)
