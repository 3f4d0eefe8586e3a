"""Quantized models: only the language model is quantized, and gradients survive a rollout."""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import bitsandbytes
import pytest
import torch

from rlhf.cli.main import main
from rlhf.config.schema import CriticKind, LoraType, ModelConfig, SamplingConfig
from rlhf.errors import UsageError
from rlhf.generation.sampler import generate
from rlhf.models.fingerprints import stored_weights
from rlhf.models.fixed_options import stored_quantization
from rlhf.models.policy import POLICY, build_policy
from rlhf.models.quantization import model_quantization
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
    checkpoint = run.save_checkpoint()
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
        tiny, storage if storage == "bfloat16" else "float32", model_quantization(llava.model)
    )
    loaded.adapters.load(POLICY, tmp_path / "adapter", trains=False)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    with torch.no_grad():
        expected = llava.response_hidden_states(prompts, responses)
        assert torch.equal(loaded.response_hidden_states(prompts, responses), expected)


@pytest.fixture(scope="module", params=LAYERS)
def stored(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: Any) -> Path:
    """A directory whose model/ holds weights that are stored quantized, and the same pictures."""
    directory: Path = tmp_path_factory.mktemp(request.param)
    llava = tiny_models.load(tiny, quantization=request.param)
    llava.save(directory / "model")
    shutil.copytree(tiny / "pictures", directory / "pictures")
    return directory


def test_weights_that_are_stored_quantized_are_used_as_they_are(stored: Path, tiny: Path) -> None:
    llava = tiny_models.load(stored)
    kind = model_quantization(llava.model)
    assert kind == stored_quantization(str(stored / "model")) in LAYERS
    assert stored_weights(llava.model)["quantization"] == kind
    fresh = tiny_models.load(tiny, quantization=kind)
    prompts, responses = tiny_models.prompts_of(llava, stored), tiny_models.responses_of(llava)
    ours = llava.response_hidden_states(prompts, responses)
    torch.testing.assert_close(ours, fresh.response_hidden_states(prompts, responses))


def test_weights_that_are_stored_quantized_do_not_become_another_kind(stored: Path) -> None:
    other = {"nf4": "int8", "int8": "nf4"}[model_quantization(tiny_models.load(stored).model)]
    with pytest.raises(UsageError, match=f"cannot become {other}"):
        tiny_models.load(stored, quantization=other)


def test_nothing_is_merged_into_quantized_weights(
    stored: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llava = tiny_models.load(stored)
    llava.adapters.add(POLICY, rank=4, alpha=8)
    llava.adapters.save(POLICY, tmp_path / "adapter", llava.base)
    words = ["export", str(tmp_path), "export.merge=true", f"output={tmp_path / 'merged'}"]
    assert main(words) == 2
    assert "cannot be merged into" in capsys.readouterr().err
    assert main([*words, f"model.base={tiny / 'model'}"]) == 0
    words = ["sft", f"model.path={stored / 'model'}", "model.train=full", f"output_dir={tmp_path}"]
    file = tmp_path / "rows.jsonl"
    file.write_text('{"image_path": "pictures/00000.png", "instruction": "a", "response": "b"}')
    assert main([*words, f"data.demonstrations={file}", f"data.root={stored}"]) == 2
    assert "needs weights that are not quantized" in capsys.readouterr().err


def test_quantizations_that_are_not_supported_are_refused_by_name(
    tiny: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny / "model", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    for stored in ({"quant_method": "gptq"}, {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}):
        config = json.loads((tiny / "model" / "config.json").read_text())
        file.write_text(json.dumps(config | {"quantization_config": stored}))
        with pytest.raises(UsageError, match="quantized as (gptq|fp4), which is not supported"):
            tiny_models.load(tmp_path)
