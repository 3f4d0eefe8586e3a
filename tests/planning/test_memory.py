"""The cost model against what real models hold, and against metrics worked by hand."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import Tensor
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
    base_model_bytes,
    estimate_memory,
    lora_parameters,
    resident_bytes,
    trainable_parameters,
)
from rlhf.planning.model_dims import ModelDims, dims_of, read_dims
from tests.support import tiny_models
from tests.support.planned import WORKLOAD, wide_model


@pytest.fixture(scope="module")
def seven() -> ModelDims:
    return read_dims("llava-hf/llava-1.5-7b-hf")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wider and deeper model than `tiny`, with its images."""
    return wide_model(tmp_path_factory.mktemp("wide"))


def size(values: Iterable[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in values)


def test_the_parts_of_the_7b_are_the_published_ones(seven: ModelDims) -> None:
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    assert seven.linear_params == 32 * layer == 6_476_005_376
    assert seven.norm_params == (2 * 32 + 1) * 4096
    assert seven.embedding_params == seven.lm_head_params == 32064 * 4096
    assert (
        seven.linear_params + seven.norm_params + seven.embedding_params + seven.lm_head_params
        == 6_738_939_904
    )
    assert seven.projector_params == 1024 * 4096 + 4096 + 4096**2 + 4096
    assert seven.vision_tower_params == 303_507_456
    assert (seven.image_tokens, seven.vision_feature_size) == (576, 1024)
    assert lora_parameters(seven, 64) == 159_907_840


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
    found = {
        "vision tower": size(inner.vision_tower.parameters()),
        "projector": size(inner.multi_modal_projector.parameters()),
        "head": size([llava.output_weight]),
        "embeddings": size([inner.language_model.embed_tokens.weight]),
    }
    language = size(inner.language_model.parameters()) - found["embeddings"]
    assert base_model_bytes(dims, replace(WORKLOAD, dtype=dtype)) == found | {
        "language model": language
    }
    assert [dims.image_tokens] == llava.builder.image_tokens([Path()])
    llava.adapters.add(POLICY, rank=4, alpha=8)
    assert lora_parameters(dims, 4) * 4 == size(llava.adapters.tensors(POLICY).values())


def test_quantized_layers_have_the_bytes_that_bitsandbytes_gives_them(wide: Path) -> None:
    dims = read_dims(str(wide / "model"))
    norms = 2 * dims.norm_params
    for kind, layer in (
        ("nf4", bitsandbytes.nn.Linear4bit),
        ("int8", bitsandbytes.nn.Linear8bitLt),
    ):
        modules = tiny_models.load(wide, "bfloat16", kind).model.modules()
        packed = size(module.weight for module in modules if isinstance(module, layer))
        planned = (
            base_model_bytes(dims, replace(WORKLOAD, quantization=kind))["language model"] - norms  # type: ignore[arg-type]
        )
        assert packed <= planned <= packed * 1.032  # nf4's scales: 0.127 bits a weight


def test_full_training_trains_the_language_model_without_its_embeddings(tiny: Path) -> None:
    llava, dims = tiny_models.load(tiny, "float32"), read_dims(str(tiny / "model"))
    policy = build_policy(llava, ModelConfig(train="full"), temperature=1.0)
    moved = sum(value.numel() for value in policy.trainable_parameters().values())
    head = sum(value.numel() for value in policy.value_head.parameters())
    workload = replace(WORKLOAD, train="full", dtype="float32", reward="base_model")
    assert trainable_parameters(dims, workload) == moved + head
    parts = resident_bytes(dims, workload)
    whole = size(llava.model.parameters())
    assert parts["second base model: reference"] == parts["second base model: reward"] == whole


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
    kept = (state.prefix.layer(x) + state.suffix.layer(x) for x in range(dims.num_layers))
    found = size(part for layer in kept for part in layer)
    assert kv_cache_bytes(dims, replace(WORKLOAD, dtype="float32"), 4, tokens) == found


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


def test_the_activations_of_the_7b_by_hand(seven: ModelDims) -> None:
    half = 2 * 4 * 4096 + 4 * 32 + 3 * 2 * 11008  # attention; the MLP's three
    norms, inputs = 4 * 2 * 4096, 2 * (2 * 4096 + 11008 + 7 * 64)
    layer, factors = half + norms + inputs, 2 * 159_907_840
    assert layer_activation_bytes(seven, WORKLOAD) == layer
    rows = 8192 // 768
    mlp = 3 * 2 * 11008 + 2 * (4096 + 11008 + 3 * 64)  # the last runs for 129 tokens of 768
    assert (
        saved_activation_bytes(seven, WORKLOAD) == rows * (768 * 32 * layer - 639 * mlp) + factors
    )
    again = saved_activation_bytes(seven, WORKLOAD, checkpointing=True)
    assert again == rows * 768 * (32 * 4096 * 2 + 4 * 4096 + layer) + factors // 32
    for critic in ("adapter", "separate"):  # after the policy's backward
        assert saved_activation_bytes(
            seven, replace(WORKLOAD, critic=critic)
        ) == saved_activation_bytes(seven, WORKLOAD)


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


def test_logits_of_a_chunk_by_hand(seven: ModelDims) -> None:
    assert logprob_workspace_bytes(seven, WORKLOAD, 128) == 32 * 2**20 + 4 * 128 * 4096
    torch_only = logprob_workspace_bytes(seven, replace(WORKLOAD, triton=False), 1280)
    assert torch_only == 3 * 4 * 130 * 32064 + 3 * 4 * 1280 * 4096 + 4 * 32064 * 4096
    assert sampling_workspace_bytes(seven, 2) == 2 * 32064 * 24


def test_the_7b_on_one_card_by_hand(seven: ModelDims) -> None:
    assert kv_cache_bytes(seven, WORKLOAD, 1, 1) == 512 * 2**10
    found = estimate_memory(seven, WORKLOAD)
    adapter = 4 * 159_907_840
    assert found.resident["adapter: policy"] == found.resident["adapter: reward"] == adapter
    assert found.resident["gradients"] == 4 * (159_907_840 + 4097)
    assert found.resident["optimizer"] == 8 * (159_907_840 + 4097)
    assert found.image_feature_bytes == 576 * 1024 * 2
    assert found.peak == max(found.peaks().values()) == found.peaks()["update"]
    rollout = found.phases["rollout"]  # room for the responses is taken with the first prompts
    assert rollout["KV cache"] == 64 * 768 * 512 * 2**10
    assert rollout["workspace of a layer"] == 12 * 640 * 8 * (11008 + 4096)
    short = replace(WORKLOAD, prompt_tokens=10, max_prefill_tokens=10, sampling_batch_size=48)
    decoding = {"KV cache": 48 * 138 * 512 * 2**10, "logits": sampling_workspace_bytes(seven, 48)}
    assert estimate_memory(seven, short).phases["rollout"] == decoding
    in_update = found.phases["update"]
    assert in_update["workspace of a layer"] == 7680 * (4 * 11008 + 4 * 4096)


def test_what_each_option_adds(seven: ModelDims) -> None:
    def of(**options: Any) -> dict[str, int]:
        return resident_bytes(seven, replace(WORKLOAD, **options))

    adapter = of()["adapter: policy"]
    assert of(starts_from_adapter=True)["adapter: reference"] == adapter
    assert of(critic="adapter")["adapter: critic"] == adapter
    assert of(critic="adapter")["gradients"] == 4 * (2 * 159_907_840 + 4097)
    assert of(critic="separate")["second base model: critic"] == sum(
        base_model_bytes(seven, WORKLOAD).values()
    )
    assert of(optimizer="adamw_8bit")["optimizer"] == 2 * (159_907_840 + 4097)
    assert "adapter: reward" not in of(reward="none")
    full = of(train="full", dtype="float32", reward="none")
    assert "adapter: policy" not in full
    assert full["gradients"] == 4 * (6_476_005_376 + 65 * 4096 + 4097)


def test_only_response_tokens_carry_gradients_in_the_response_scope(seven: ModelDims) -> None:
    workload = replace(WORKLOAD, lora_type="alora")
    prefix, copies = 10 * 640 * 512 * 2**10, 2 * 159_907_840
    layers = 10 * 128 * 32 * layer_activation_bytes(seven, workload)
    assert saved_activation_bytes(seven, workload) == layers + copies + prefix
    again = replace(workload, gradient_checkpointing=True)
    inputs = 10 * 128 * (32 * 2 * 4096 + 4 * 4096)
    assert (
        saved_activation_bytes(seven, again) == inputs + prefix + (layers + copies + prefix) // 32
    )
    assert forward_flops(seven, WORKLOAD) == pytest.approx(10.10e12, rel=0.001)
    assert forward_flops(seven, workload) == pytest.approx(1.71e12, rel=0.005)


def test_a_packed_weight_is_unpacked_for_its_product(seven: ModelDims) -> None:
    phases = estimate_memory(seven, replace(WORKLOAD, quantization="nf4")).phases
    assert phases["rollout"]["dequantized weight"] == 2 * 4096 * 11008
    assert all(
        "dequantized weight" not in parts
        for parts in estimate_memory(seven, WORKLOAD).phases.values()
    )


def test_the_head_of_scoring_sees_responses_only() -> None:
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 2**20}
    dims = dims_of(LlavaConfig(text_config=text, image_token_index=5))
    workload = replace(WORKLOAD, prompt_tokens=1, triton=False, microbatch_tokens=258)
    rows, chunk = 2, 128
    logits = 3 * 4 * chunk * 2**20 + 3 * 4 * rows * 128 * 64 + 4 * 2**20 * 64
    assert estimate_memory(dims, workload).phases["scoring"] == {"logits": logits}


def test_prompts_are_kept_or_read_again_in_the_response_scope(seven: ModelDims) -> None:
    workload, gib = replace(WORKLOAD, lora_type="alora", prefix_cache_gib=100), 2**30
    kept, anew = (
        estimate_memory(seven, replace(workload, prefix_cache_gib=n)).phases for n in (100, 0)
    )
    assert {parts["prompts kept"] for parts in kept.values()} == {64 * 640 * 512 * 2**10}
    assert not any("prompts kept" in parts for parts in anew.values())
    some = estimate_memory(seven, replace(workload, prefix_cache_gib=5)).phases
    assert {parts["prompts kept"] for parts in some.values()} == {5 * gib}
    assert kept["scoring"]["KV cache"] == 10 * 640 * 512 * 2**10
    assert kept["scoring"]["KV of a layer"] == 10 * 768 * 16 * 2**10
    assert anew["scoring"]["workspace of a layer"] == 10 * 640 * 8 * (11008 + 4096)
    few = estimate_memory(seven, replace(workload, samples_per_prompt=8)).phases["rollout"]
    assert few["prompts kept"] == 8 * 640 * 512 * 2**10
