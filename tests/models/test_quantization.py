"""Quantized models: only the language model is quantized, and gradients survive a rollout."""

from pathlib import Path
from typing import get_args

import bitsandbytes
import pytest
import torch

from rlhf.config.schema import CriticKind, LoraType, ModelConfig, SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.models.policy import POLICY, build_policy
from rlhf.ppo.trainer import PPOTrainer
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.storage.hashing import hash_tensors
from tests.support import tiny_models

LAYERS = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_are_alive_after_a_rollout(tiny: Path, kind: str) -> None:
    llava = tiny_models.load(tiny, quantization=kind)
    quantized = [n for n, m in llava.model.named_modules() if isinstance(m, LAYERS[kind])]
    assert len(quantized) == 2 * 7
    assert all("language_model" in name for name in quantized)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    prompts = tiny_models.prompts_of(llava, tiny)
    responses, _ = generate(llava, prompts, SamplingConfig(max_new_tokens=6))
    policy.evaluate(prompts, responses).logprobs.sum().backward()
    norms = [v.grad.norm() for n, v in policy.trainable_parameters().items() if "lora_B" in n]  # type: ignore[union-attr]
    assert norms and all(float(norm) > 0 for norm in norms)


def built_run(
    tiny: Path, directory: Path, storage: str, critic: CriticKind, lora_type: LoraType
) -> PPOTrainer:
    """A run of two iterations; `storage` is of the language model, or the dtype of all weights."""
    torch.manual_seed(0)
    dtype = "bfloat16" if storage == "bfloat16" else "float32"
    llava = tiny_models.load(tiny, dtype, storage if storage in LAYERS else "none")
    config = ModelConfig(lora_rank=4, lora_type=lora_type)
    policy = build_policy(llava, config, temperature=1.0, critic=critic)
    return tiny_models.two_iterations(policy, tiny_models.prompts_of(llava, tiny), directory)


@pytest.mark.parametrize("lora_type", get_args(LoraType))
@pytest.mark.parametrize("critic", get_args(CriticKind))
@pytest.mark.parametrize("storage", ["float32", "bfloat16", *LAYERS])
def test_sanity_checks_hold_for_every_storage_critic_and_lora_type(
    tiny: Path, tmp_path: Path, storage: str, critic: CriticKind, lora_type: LoraType
) -> None:
    """Rollout, reward, update, checkpoint, resume, adapter: it refuses to start if one fails."""
    run = built_run(tiny, tmp_path, storage, critic, lora_type)
    policy, llava = run.policy, run.policy.llava
    frozen = hash_tensors(policy.frozen_parameters())
    initial = hash_tensors(policy.trainable_parameters().items())
    metrics = run.step(0)
    run.iteration = 1
    checkpoint = run.save()
    run.run()
    assert metrics["val/first_step_ratio_gap"] < (0.1 if storage == "bfloat16" else 1e-5)
    assert hash_tensors(policy.frozen_parameters()) == frozen
    assert hash_tensors(policy.trainable_parameters().items()) != initial
    resumed = built_run(tiny, tmp_path, storage, critic, lora_type)
    resumed.restore(load_checkpoint(checkpoint))
    resumed.run()
    for first, second in zip(
        run.policy.base_models().values(), resumed.policy.base_models().values(), strict=True
    ):
        assert hash_tensors(first.named_parameters()) == hash_tensors(second.named_parameters())
    llava.adapters.save(POLICY, tmp_path / "adapter", llava.base)
    loaded = tiny_models.load(
        tiny, storage if storage == "bfloat16" else "float32", llava.quantization
    )
    loaded.adapters.load(POLICY, tmp_path / "adapter", trains=False)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    with torch.no_grad():
        expected = llava.response_hidden_states(prompts, responses)
        assert torch.equal(loaded.response_hidden_states(prompts, responses), expected)
