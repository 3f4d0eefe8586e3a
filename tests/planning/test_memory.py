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
    activations,
    head_logits,
    kv_cache,
    layer_activations,
    sampling_logits,
)
from rlhf.planning.ideal_time import forward
from rlhf.planning.memory import (
    base_model_bytes,
    lora_parameters,
    memory,
    resident,
    trainable_parameters,
)
from rlhf.planning.model_shape import ModelDims, dims_of, read_dims
from tests.support import tiny_models
from tests.support.planned import SETUP, wide_model


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
    assert seven.linears == 32 * layer == 6_476_005_376
    assert seven.others == (2 * 32 + 1) * 4096
    assert seven.embeddings == seven.head == 32064 * 4096
    assert seven.linears + seven.others + seven.embeddings + seven.head == 6_738_939_904
    assert seven.projector == 1024 * 4096 + 4096 + 4096**2 + 4096
    assert seven.tower == 303_507_456
    assert (seven.image_tokens, seven.feature_width) == (576, 1024)
    assert lora_parameters(seven, 64) == 159_907_840


def test_the_13b_is_known_too() -> None:
    assert read_dims("llava-hf/llava-1.5-13b-hf").linears == 40 * (4 * 5120**2 + 3 * 5120 * 13824)


@pytest.mark.parametrize(("directory", "dtype"), [("tiny", "float32"), ("wide", "bfloat16")])
def test_the_weights_are_those_of_a_loaded_model(
    directory: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(directory)
    llava, shape = tiny_models.load(path, dtype), read_dims(str(path / "model"))
    inner = llava.model.model
    found = {
        "vision tower": size(inner.vision_tower.parameters()),
        "projector": size(inner.multi_modal_projector.parameters()),
        "head": size([llava.output_weight]),
        "embeddings": size([inner.language_model.embed_tokens.weight]),
    }
    language = size(inner.language_model.parameters()) - found["embeddings"]
    assert base_model_bytes(shape, replace(SETUP, dtype=dtype)) == found | {
        "language model": language
    }
    assert [shape.image_tokens] == llava.builder.image_tokens([Path()])
    llava.adapters.add(POLICY, rank=4, alpha=8)
    assert lora_parameters(shape, 4) * 4 == size(llava.adapters.tensors(POLICY).values())


def test_quantized_layers_have_the_bytes_that_bitsandbytes_gives_them(wide: Path) -> None:
    shape = read_dims(str(wide / "model"))
    norms = 2 * shape.others
    for kind, layer in (
        ("nf4", bitsandbytes.nn.Linear4bit),
        ("int8", bitsandbytes.nn.Linear8bitLt),
    ):
        modules = tiny_models.load(wide, "bfloat16", kind).model.modules()
        packed = size(module.weight for module in modules if isinstance(module, layer))
        planned = (
            base_model_bytes(shape, replace(SETUP, quantization=kind))["language model"] - norms
        )
        assert packed <= planned <= packed * 1.032  # nf4's scales: 0.127 bits a weight


def test_full_training_trains_the_language_model_without_its_embeddings(tiny: Path) -> None:
    llava, shape = tiny_models.load(tiny, "float32"), read_dims(str(tiny / "model"))
    policy = build_policy(llava, ModelConfig(train="full"), temperature=1.0)
    moved = sum(value.numel() for value in policy.trainable_parameters().values())
    head = sum(value.numel() for value in policy.value_head.parameters())
    setup = replace(SETUP, train="full", dtype="float32", reward="trunk")
    assert trainable_parameters(shape, setup) == moved + head
    parts = resident(shape, setup)
    whole = size(llava.model.parameters())
    assert parts["second trunk: reference"] == parts["second trunk: reward"] == whole


@pytest.mark.parametrize("directory", ["tiny", "wide"])
def test_the_cache_is_that_of_a_real_rollout(
    directory: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(directory)
    llava, shape = tiny_models.load(path, "float32"), read_dims(str(path / "model"))
    prompts = tiny_models.prompts_of(llava, path)
    with torch.no_grad():
        _, state = llava.decode(torch.ones(4, dtype=torch.int64), llava.prefill(prompts, 1)[1])
    tokens = int(prompts.spans.lengths.max()) + 1
    kept = (state.prefix.layer(x) + state.suffix.layer(x) for x in range(shape.layers))
    found = size(part for layer in kept for part in layer)
    assert kv_cache(shape, replace(SETUP, dtype="float32"), 4, tokens) == found


def test_grouped_queries_shrink_the_cache_and_ties_the_head() -> None:
    mistral = dims_of(LlavaConfig(text_config=MistralConfig(), image_token_index=5))
    assert kv_cache(mistral, SETUP, 1, 1) == 2 * 32 * 8 * 128 * 2
    assert mistral.linears == 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert mistral.head == 32000 * 4096
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 50}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    text = Qwen2Config(**sizes, **heads)
    qwen = dims_of(LlavaConfig(text_config=text, image_token_index=5, tie_word_embeddings=True))
    assert qwen.head == 0
    assert qwen.linears == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    assert qwen.others == 2 * (2 * 64 + 64 + 32 + 32) + 64  # norms, and biases of q, k, v


def test_the_activations_of_the_7b_by_hand(seven: ModelDims) -> None:
    half = 2 * 4 * 4096 + 4 * 32 + 3 * 2 * 11008  # attention; the MLP's three
    norms, inputs = 4 * 2 * 4096, 2 * (2 * 4096 + 11008 + 7 * 64)
    layer, factors = half + norms + inputs, 2 * 159_907_840
    assert layer_activations(seven, SETUP) == layer
    rows = 8192 // 768
    mlp = 3 * 2 * 11008 + 2 * (4096 + 11008 + 3 * 64)  # the last runs for 129 tokens of 768
    assert activations(seven, SETUP) == rows * (768 * 32 * layer - 639 * mlp) + factors
    again = activations(seven, SETUP, checkpointing=True)
    assert again == rows * 768 * (32 * 4096 * 2 + 4 * 4096 + layer) + factors // 32
    for critic in ("adapter", "separate"):  # after the policy's backward
        assert activations(seven, replace(SETUP, critic=critic)) == activations(seven, SETUP)


def test_a_micro_batch_holds_whole_rows_and_at_least_one() -> None:
    assert SETUP.rows(16) == 10
    assert SETUP.rows(8) == 8
    assert replace(SETUP, microbatch_tokens=100).rows(16) == 1
    assert replace(SETUP, rollout_batch_size=8).generated_together == 8


def test_a_shared_prompt_counts_once() -> None:
    """640 + 4·128 = 1,152 tokens a prompt: 7 of them fit into 8,192; of 1,000, 2 rows do."""
    setup = replace(SETUP, samples_per_prompt=4, rollout_batch_size=64)
    assert (setup.rows(64), setup.distinct(28), setup.tokens(28)) == (28, 7, 7 * 1152)
    assert setup.tokens(5) == 2 * 640 + 5 * 128
    assert replace(setup, microbatch_tokens=1000).rows(64) == 2
    assert replace(setup, microbatch_tokens=10).rows(64) == 1
    assert replace(setup, lora_type="alora").tokens(28) == 28 * 128


def test_tiles_are_those_of_the_triton_kernel() -> None:
    assert pytest.importorskip("rlhf.kernels.token_logprobs_triton").CHUNK_LOGITS == TILE_LOGITS


def test_logits_of_a_chunk_by_hand(seven: ModelDims) -> None:
    assert head_logits(seven, SETUP, 128) == 32 * 2**20 + 4 * 128 * 4096
    torch_only = head_logits(seven, replace(SETUP, triton=False), 1280)
    assert torch_only == 3 * 4 * 130 * 32064 + 3 * 4 * 1280 * 4096 + 4 * 32064 * 4096
    assert sampling_logits(seven, 2) == 2 * 32064 * 24


def test_the_7b_on_one_card_by_hand(seven: ModelDims) -> None:
    assert kv_cache(seven, SETUP, 1, 1) == 512 * 2**10
    found = memory(seven, SETUP)
    adapter = 4 * 159_907_840
    assert found.resident["adapter: policy"] == found.resident["adapter: reward"] == adapter
    assert found.resident["gradients"] == 4 * (159_907_840 + 4097)
    assert found.resident["optimizer"] == 8 * (159_907_840 + 4097)
    assert found.features == 576 * 1024 * 2
    assert found.peak == max(found.peaks().values()) == found.peaks()["update"]
    rollout = found.phases["rollout"]  # room for the responses is taken with the first prompts
    assert rollout["KV cache"] == 64 * 768 * 512 * 2**10
    assert rollout["workspace of a layer"] == 12 * 640 * 8 * (11008 + 4096)
    short = replace(SETUP, prompt_tokens=10, max_prefill_tokens=10, sampling_batch_size=48)
    decoding = {"KV cache": 48 * 138 * 512 * 2**10, "logits": sampling_logits(seven, 48)}
    assert memory(seven, short).phases["rollout"] == decoding
    in_update = found.phases["update"]
    assert in_update["workspace of a layer"] == 7680 * (4 * 11008 + 4 * 4096)


def test_what_each_option_adds(seven: ModelDims) -> None:
    def of(**options: Any) -> dict[str, int]:
        return resident(seven, replace(SETUP, **options))

    adapter = of()["adapter: policy"]
    assert of(starts_from_adapter=True)["adapter: reference"] == adapter
    assert of(critic="adapter")["adapter: critic"] == adapter
    assert of(critic="adapter")["gradients"] == 4 * (2 * 159_907_840 + 4097)
    assert of(critic="separate")["second trunk: critic"] == sum(
        base_model_bytes(seven, SETUP).values()
    )
    assert of(optimizer="adamw_8bit")["optimizer"] == 2 * (159_907_840 + 4097)
    assert "adapter: reward" not in of(reward="none")
    full = of(train="full", dtype="float32", reward="none")
    assert "adapter: policy" not in full
    assert full["gradients"] == 4 * (6_476_005_376 + 65 * 4096 + 4097)


def test_only_response_tokens_carry_gradients_in_the_response_scope(seven: ModelDims) -> None:
    setup = replace(SETUP, lora_type="alora")
    prefix, copies = 10 * 640 * 512 * 2**10, 2 * 159_907_840
    layers = 10 * 128 * 32 * layer_activations(seven, setup)
    assert activations(seven, setup) == layers + copies + prefix
    again = replace(setup, gradient_checkpointing=True)
    inputs = 10 * 128 * (32 * 2 * 4096 + 4 * 4096)
    assert activations(seven, again) == inputs + prefix + (layers + copies + prefix) // 32
    assert forward(seven, SETUP) == pytest.approx(10.10e12, rel=0.001)
    assert forward(seven, setup) == pytest.approx(1.71e12, rel=0.005)


def test_a_packed_weight_is_unpacked_for_its_product(seven: ModelDims) -> None:
    phases = memory(seven, replace(SETUP, quantization="nf4")).phases
    assert phases["rollout"]["dequantized weight"] == 2 * 4096 * 11008
    assert all("dequantized weight" not in parts for parts in memory(seven, SETUP).phases.values())


def test_the_head_of_scoring_sees_responses_only() -> None:
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 2**20}
    shape = dims_of(LlavaConfig(text_config=text, image_token_index=5))
    setup = replace(SETUP, prompt_tokens=1, triton=False, microbatch_tokens=258)
    rows, chunk = 2, 128
    logits = 3 * 4 * chunk * 2**20 + 3 * 4 * rows * 128 * 64 + 4 * 2**20 * 64
    assert memory(shape, setup).phases["scoring"] == {"logits": logits}


def test_prompts_are_kept_or_read_again_in_the_response_scope(seven: ModelDims) -> None:
    setup, gib = replace(SETUP, lora_type="alora", prefix_cache_gib=100), 2**30
    kept, anew = (memory(seven, replace(setup, prefix_cache_gib=n)).phases for n in (100, 0))
    assert {parts["prompts kept"] for parts in kept.values()} == {64 * 640 * 512 * 2**10}
    assert not any("prompts kept" in parts for parts in anew.values())
    some = memory(seven, replace(setup, prefix_cache_gib=5)).phases
    assert {parts["prompts kept"] for parts in some.values()} == {5 * gib}
    assert kept["scoring"]["KV cache"] == 10 * 640 * 512 * 2**10
    assert kept["scoring"]["KV of a layer"] == 10 * 768 * 16 * 2**10
    assert anew["scoring"]["workspace of a layer"] == 10 * 640 * 8 * (11008 + 4096)
    few = memory(seven, replace(setup, samples_per_prompt=8)).phases["rollout"]
    assert few["prompts kept"] == 8 * 640 * 512 * 2**10
