"""bitsandbytes on the trunk: only the language model is packed, and gradients survive a rollout."""

from pathlib import Path

import bitsandbytes
import pytest
import small
import torch

from rlhf.config import ModelConfig, SamplingConfig
from rlhf.models.generation import generate
from rlhf.models.llava import Llava
from rlhf.models.policy import build_policy

PACKED = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}


@pytest.mark.parametrize("kind", PACKED)
def test_gradients_are_alive_after_a_rollout(tiny: Path, kind: str) -> None:
    llava = Llava.load(
        str(tiny / "model"),
        device=torch.device("cpu"),
        dtype=torch.float32,
        quantization=kind,
    )
    packed = [n for n, m in llava.model.named_modules() if isinstance(m, PACKED[kind])]
    assert len(packed) == 2 * 7
    assert all("language_model" in name for name in packed)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    prompts = small.prompts_of(llava, tiny)
    responses, _ = generate(llava, prompts, SamplingConfig(max_new_tokens=6))
    policy.score(prompts, responses).logprobs.sum().backward()
    norms = [v.grad.norm() for n, v in policy.trained().items() if "lora_B" in n]
    assert norms and all(float(norm) > 0 for norm in norms)
