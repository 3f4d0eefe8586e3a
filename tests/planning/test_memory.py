"""Memory estimates against real models, and against numbers computed by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from transformers import LlavaConfig, MistralConfig, Qwen2Config

from rlhf.config.schema import ModelConfig
from rlhf.models.policy import POLICY, build_policy
from rlhf.planning.activation_memory import (
    TILE_LOGITS,
    kv_cache_bytes,
    layer_activation_bytes,
    logprob_workspace_bytes,
    sampling_workspace_bytes,
    saved_activation_bytes,
)
from rlhf.planning.ideal_time import forward_flops
from rlhf.planning.memory import (
    estimate_memory,
)
from rlhf.planning.model_dims import ModelDims, dims_of, read_dims
from rlhf.planning.resident_memory import (
    base_model_bytes,
    lora_parameters,
    resident_bytes,
    trainable_parameters,
)
from tests.support import tiny_models
from tests.support.planned import WORKLOAD, num_bytes


def test_the_parts_of_the_7b_are_the_published_ones(llava_7b: ModelDims) -> None:
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    assert llava_7b.linear_params == 32 * layer == 6_476_005_376
    assert llava_7b.norm_params == (2 * 32 + 1) * 4096
    assert llava_7b.embedding_params == llava_7b.lm_head_params == 32064 * 4096
    assert (
        llava_7b.linear_params
        + llava_7b.norm_params
        + llava_7b.embedding_params
        + llava_7b.lm_head_params
        == 6_738_939_904
    )
    assert llava_7b.projector_params == 1024 * 4096 + 4096 + 4096**2 + 4096
    assert llava_7b.vision_tower_params == 303_507_456
    assert (llava_7b.image_tokens, llava_7b.vision_feature_size) == (576, 1024)
    assert lora_parameters(llava_7b, 64) == 159_907_840


def test_the_13b_is_known_too() -> None:
    assert read_dims("llava-hf/llava-1.5-13b-hf").linear_params == 40 * (
        4 * 5120**2 + 3 * 5120 * 13824
    )


@pytest.mark.parametrize(("directory", "dtype"), [("tiny", "float32"), ("wide", "bfloat16")])
def test_the_weights_are_those_of_a_loaded_model(
    directory: str, dtype: Any, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(directory)
    llava, dims = tiny_models.load(path, dtype), read_dims(str(path / "model"))
    inner = llava.model.model
    loaded = {
        "vision tower": num_bytes(inner.vision_tower.parameters()),
        "projector": num_bytes(inner.multi_modal_projector.parameters()),
        "head": num_bytes([llava.output_weight]),
        "embeddings": num_bytes([inner.language_model.embed_tokens.weight]),
    }
    language = num_bytes(inner.language_model.parameters()) - loaded["embeddings"]
    assert base_model_bytes(dims, replace(WORKLOAD, dtype=dtype)) == loaded | {
        "language model": language
    }
    assert [dims.image_tokens] == llava.builder.image_tokens([Path()])
    llava.adapters.add(POLICY, rank=4, alpha=8)
    assert lora_parameters(dims, 4) * 4 == num_bytes(llava.adapters.tensors(POLICY).values())


def test_quantized_layers_have_the_bytes_that_bitsandbytes_gives_them(wide: Path) -> None:
    dims = read_dims(str(wide / "model"))
    norms = 2 * dims.norm_params
    for kind, layer in (
        ("nf4", bitsandbytes.nn.Linear4bit),
        ("int8", bitsandbytes.nn.Linear8bitLt),
    ):
        modules = tiny_models.load(wide, "bfloat16", kind).model.modules()
        packed = num_bytes(module.weight for module in modules if isinstance(module, layer))
        planned = (
            base_model_bytes(dims, replace(WORKLOAD, quantization=kind))["language model"] - norms  # type: ignore[arg-type]
        )
        assert packed <= planned <= packed * 1.032  # nf4's scales: 0.127 bits a weight


def test_full_training_trains_the_language_model_without_its_embeddings(tiny: Path) -> None:
    llava, dims = tiny_models.load(tiny, "float32"), read_dims(str(tiny / "model"))
    policy = build_policy(llava, ModelConfig(train="full"), temperature=1.0)
    trained = sum(value.numel() for value in policy.trainable_parameters().values())
    head = sum(value.numel() for value in policy.critic.head.parameters())
    workload = replace(WORKLOAD, train="full", dtype="float32", reward="base_model")
    assert trainable_parameters(dims, workload) == trained + head
    parts = resident_bytes(dims, workload)
    all_bytes = num_bytes(llava.model.parameters())
    assert parts["second base model: reference"] == parts["second base model: reward"] == all_bytes


@pytest.mark.parametrize("directory", ["tiny", "wide"])
def test_the_cache_is_that_of_a_real_rollout(
    directory: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(directory)
    llava, dims = tiny_models.load(path, "float32"), read_dims(str(path / "model"))
    prompts = tiny_models.prompts_of(llava, path)
    with torch.no_grad():
        _, state = llava.decode(torch.ones(4, dtype=torch.int64), llava.prefill(prompts, 1)[1])
    tokens = int(prompts.spans.lengths.max()) + 1
    layers = (state.prefix.layer(x) + state.suffix.layer(x) for x in range(dims.num_layers))
    cache_bytes = num_bytes(part for layer in layers for part in layer)
    assert kv_cache_bytes(dims, replace(WORKLOAD, dtype="float32"), 4, tokens) == cache_bytes


def test_grouped_queries_shrink_the_cache_and_ties_the_head() -> None:
    mistral = dims_of(LlavaConfig(text_config=MistralConfig(), image_token_index=5))
    assert kv_cache_bytes(mistral, WORKLOAD, 1, 1) == 2 * 32 * 8 * 128 * 2
    assert mistral.linear_params == 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert mistral.lm_head_params == 32000 * 4096
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 50}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    text = Qwen2Config(**sizes, **heads)
    qwen = dims_of(LlavaConfig(text_config=text, image_token_index=5, tie_word_embeddings=True))
    assert qwen.lm_head_params == 0
    assert qwen.linear_params == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    assert qwen.norm_params == 2 * (2 * 64 + 64 + 32 + 32) + 64  # norms, and biases of q, k, v


def test_the_activations_of_the_7b_by_hand(llava_7b: ModelDims) -> None:
    linear = 2 * 4 * 4096 + 4 * 32 + 3 * 2 * 11008  # attention; the MLP's three
    norms, inputs = 4 * 2 * 4096, 2 * (2 * 4096 + 11008 + 7 * 64)
    layer, factors = linear + norms + inputs, 2 * 159_907_840
    assert layer_activation_bytes(llava_7b, WORKLOAD) == layer
    rows = 8192 // 768
    mlp = 3 * 2 * 11008 + 2 * (4096 + 11008 + 3 * 64)  # the last runs for 129 tokens of 768
    assert (
        saved_activation_bytes(llava_7b, WORKLOAD)
        == rows * (768 * 32 * layer - 639 * mlp) + factors
    )
    checkpointed = saved_activation_bytes(llava_7b, WORKLOAD, checkpointing=True)
    assert checkpointed == rows * 768 * (32 * 4096 * 2 + 4 * 4096 + layer) + factors // 32
    for critic in ("adapter", "separate"):  # after the policy's backward
        assert saved_activation_bytes(
            llava_7b, replace(WORKLOAD, critic=critic)
        ) == saved_activation_bytes(llava_7b, WORKLOAD)


def test_a_micro_batch_holds_whole_rows_and_at_least_one() -> None:
    assert WORKLOAD.microbatch_rows(16) == 10
    assert WORKLOAD.microbatch_rows(8) == 8
    assert replace(WORKLOAD, microbatch_tokens=100).microbatch_rows(16) == 1
    assert replace(WORKLOAD, rollout_batch_size=8).generation_rows == 8


def test_a_shared_prompt_counts_once() -> None:
    """640 + 4·128 = 1,152 tokens a prompt: 7 of them fit into 8,192; of 1,000, 2 rows do."""
    workload = replace(WORKLOAD, samples_per_prompt=4, rollout_batch_size=64)
    assert (workload.microbatch_rows(64), workload.prompts_of(28), workload.forward_tokens(28)) == (
        28,
        7,
        7 * 1152,
    )
    assert workload.forward_tokens(5) == 2 * 640 + 5 * 128
    assert replace(workload, microbatch_tokens=1000).microbatch_rows(64) == 2
    assert replace(workload, microbatch_tokens=10).microbatch_rows(64) == 1
    assert replace(workload, lora_type="alora").forward_tokens(28) == 28 * 128


def test_tiles_are_those_of_the_triton_kernel() -> None:
    assert pytest.importorskip("rlhf.kernels.token_logprobs_triton").CHUNK_LOGITS == TILE_LOGITS


def test_logits_of_a_chunk_by_hand(llava_7b: ModelDims) -> None:
    assert logprob_workspace_bytes(llava_7b, WORKLOAD, 128) == 32 * 2**20 + 4 * 128 * 4096
    torch_only = logprob_workspace_bytes(llava_7b, replace(WORKLOAD, triton=False), 1280)
    assert torch_only == 3 * 4 * 130 * 32064 + 3 * 4 * 1280 * 4096 + 4 * 32064 * 4096
    assert sampling_workspace_bytes(llava_7b, 2) == 2 * 32064 * 24


def test_the_7b_on_one_gpu_by_hand(llava_7b: ModelDims) -> None:
    assert kv_cache_bytes(llava_7b, WORKLOAD, 1, 1) == 512 * 2**10
    memory = estimate_memory(llava_7b, WORKLOAD)
    adapter = 4 * 159_907_840
    assert memory.resident["adapter: policy"] == memory.resident["adapter: reward"] == adapter
    assert memory.resident["gradients"] == 4 * (159_907_840 + 4102)
    assert memory.resident["optimizer"] == 8 * (159_907_840 + 4102)
    assert memory.image_feature_bytes == 576 * 1024 * 2
    assert memory.peak == max(memory.peaks().values()) == memory.peaks()["update"]
    rollout = memory.phases["rollout"]  # room for the responses is taken with the first prompts
    assert rollout["KV cache"] == 64 * 768 * 512 * 2**10
    assert rollout["workspace of a layer"] == 12 * 640 * 8 * (11008 + 4096)
    short = replace(WORKLOAD, prompt_tokens=10, max_prefill_tokens=10, sampling_batch_size=48)
    decoding = {
        "KV cache": 48 * 138 * 512 * 2**10,
        "logits": sampling_workspace_bytes(llava_7b, 48),
    }
    assert estimate_memory(llava_7b, short).phases["rollout"] == decoding
    in_update = memory.phases["update"]
    assert in_update["workspace of a layer"] == 7680 * (4 * 11008 + 4 * 4096)


def test_what_each_option_adds(llava_7b: ModelDims) -> None:
    def parts(**options: Any) -> dict[str, int]:
        return resident_bytes(llava_7b, replace(WORKLOAD, **options))

    adapter = parts()["adapter: policy"]
    assert parts(starts_from_adapter=True)["adapter: reference"] == adapter
    assert parts(critic="adapter")["adapter: critic"] == adapter
    assert parts(critic="adapter")["gradients"] == 4 * (2 * 159_907_840 + 4102)
    assert parts(critic="separate")["second base model: critic"] == sum(
        base_model_bytes(llava_7b, WORKLOAD).values()
    )
    assert parts(optimizer="adamw_8bit")["optimizer"] == 2 * (159_907_840 + 4102)
    assert "adapter: reward" not in parts(reward="none") and "adapter: judge" not in parts()
    assert parts(judge="adapter")["adapter: judge"] == parts()["adapter: reward"]
    own = parts(train="full", dtype="float32", reward="base_model", judge="base_model")
    assert own["second base model: judge"] == own["second base model: reward"]
    full = parts(train="full", dtype="float32", reward="none")
    assert "adapter: policy" not in full
    assert full["gradients"] == 4 * (6_476_005_376 + 65 * 4096 + 4102)


def test_only_response_tokens_have_gradients_with_alora(llava_7b: ModelDims) -> None:
    workload = replace(WORKLOAD, lora_type="alora")
    prefix, copies = 10 * 640 * 512 * 2**10, 2 * 159_907_840
    layers = 10 * 128 * 32 * layer_activation_bytes(llava_7b, workload)
    assert saved_activation_bytes(llava_7b, workload) == layers + copies + prefix
    checkpointed = replace(workload, gradient_checkpointing=True)
    inputs = 10 * 128 * (32 * 2 * 4096 + 4 * 4096)
    assert (
        saved_activation_bytes(llava_7b, checkpointed)
        == inputs + prefix + (layers + copies + prefix) // 32
    )
    assert forward_flops(llava_7b, WORKLOAD) == pytest.approx(10.10e12, rel=0.001)
    assert forward_flops(llava_7b, workload) == pytest.approx(1.71e12, rel=0.005)


def test_a_quantized_weight_is_dequantized_for_its_product(llava_7b: ModelDims) -> None:
    phases = estimate_memory(llava_7b, replace(WORKLOAD, quantization="nf4")).phases
    assert phases["rollout"]["dequantized weight"] == 2 * 4096 * 11008
    assert all(
        "dequantized weight" not in parts
        for parts in estimate_memory(llava_7b, WORKLOAD).phases.values()
    )


def test_scoring_computes_logits_of_responses_only() -> None:
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 2**20}
    dims = dims_of(LlavaConfig(text_config=text, image_token_index=5))
    workload = replace(WORKLOAD, prompt_tokens=1, triton=False, microbatch_tokens=258)
    rows, chunk = 2, 128
    logits = 3 * 4 * chunk * 2**20 + 3 * 4 * rows * 128 * 64 + 4 * 2**20 * 64
    assert estimate_memory(dims, workload).phases["scoring"] == {"logits": logits}


def test_alora_caches_prompts_or_reads_them_again(llava_7b: ModelDims) -> None:
    workload, gib = replace(WORKLOAD, lora_type="alora", prefix_cache_gib=100), 2**30
    cached, uncached = (
        estimate_memory(llava_7b, replace(workload, prefix_cache_gib=n)).phases for n in (100, 0)
    )
    assert {parts["prompts kept"] for parts in cached.values()} == {64 * 640 * 512 * 2**10}
    assert not any("prompts kept" in parts for parts in uncached.values())
    partly_cached = estimate_memory(llava_7b, replace(workload, prefix_cache_gib=5)).phases
    assert {parts["prompts kept"] for parts in partly_cached.values()} == {5 * gib}
    assert cached["scoring"]["KV cache"] == 10 * 640 * 512 * 2**10
    assert cached["scoring"]["KV of a layer"] == 10 * 768 * 16 * 2**10
    assert uncached["scoring"]["workspace of a layer"] == 10 * 640 * 8 * (11008 + 4096)
    grouped_rollout = estimate_memory(llava_7b, replace(workload, samples_per_prompt=8)).phases[
        "rollout"
    ]
    assert grouped_rollout["prompts kept"] == 8 * 640 * 512 * 2**10
