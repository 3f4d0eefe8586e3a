"""Runs on models whose images take a varying number of tokens."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import bitsandbytes
import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    SiglipVisionConfig,
)

from rlhf.config.schema import LoraType, ModelConfig
from rlhf.data.records import PreferenceRecord
from rlhf.data.tokenization import response_batch
from rlhf.errors import UsageError
from rlhf.evaluation.prompt_changes import evaluate_pairs, write_blank_image
from rlhf.evaluation.prompt_tests import BLINDNESS
from rlhf.models.fingerprints import same_encoding
from rlhf.models.llava import Llava
from rlhf.models.loading import fingerprints
from rlhf.models.policy import POLICY, build_policy
from rlhf.planning.ideal_time import vision_flops
from rlhf.planning.memory import estimate_memory
from rlhf.planning.model_dims import dims_of, read_dims
from rlhf.rewards.captioner import Captioner
from rlhf.types import PreferenceBatch
from tests.support import anyres, tiny_models
from tests.support import reward_models as kit
from tests.support.planned import WORKLOAD


@pytest.mark.parametrize("lora_type", get_args(LoraType))
def test_the_whole_loop_runs_and_its_adapter_loads(
    kind: str, llava: Llava, tmp_path: Path, lora_type: LoraType
) -> None:
    policy = build_policy(
        llava, ModelConfig(lora_rank=4, lora_type=lora_type), temperature=1.0, critic="adapter"
    )
    assert len(llava.adapters.layers) == 2 * 7
    assert all("language_model" in name for name in llava.adapters.layers)
    prompts = anyres.prompts_of(llava)
    run = tiny_models.two_iterations(policy, prompts, tmp_path)
    before = {name: value.clone() for name, value in llava.adapters.tensors(POLICY).items()}
    run.run()  # refuses to start where a sanity check fails
    assert run.iteration == 2
    after = llava.adapters.tensors(POLICY)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    llava.adapters.save(POLICY, tmp_path / "adapter", llava.base)
    model = AutoModelForImageTextToText.from_pretrained(llava.base, dtype=torch.float32)
    loaded = Llava(model.requires_grad_(False), llava.processor, llava.base)
    loaded.adapters.load(POLICY, tmp_path / "adapter", trains=False)
    responses = tiny_models.responses_of(llava)
    with torch.no_grad():
        hidden, loaded_hidden = (
            x.response_hidden_states(prompts, responses) for x in (llava, loaded)
        )
    assert torch.equal(hidden, loaded_hidden)


def test_loading_picks_the_class_of_the_files(built: dict[str, Llava]) -> None:
    expected = built["next, mistral"]
    expected.processor.tokenizer(["a", "a red circle"], padding=True, truncation=True, max_length=3)
    loaded = tiny_models.load(anyres.directory_of(expected))
    assert type(loaded.model) is type(expected.model)
    assert fingerprints(loaded.builder) == fingerprints(expected.builder)
    assert same_encoding(loaded.builder, expected.builder)
    assert not same_encoding(built["onevision"].builder, expected.builder)


def test_onevision_loads_or_names_the_package_that_it_needs(built: dict[str, Llava]) -> None:
    expected = built["onevision"]
    if find_spec("torchvision"):
        loaded = tiny_models.load(anyres.directory_of(expected))
        assert same_encoding(loaded.builder, expected.builder)
        return
    with pytest.raises(UsageError, match="requires the Torchvision library") as refused:
        tiny_models.load(anyres.directory_of(expected))
    assert "install the package" in str(refused.value)


def test_a_model_of_another_kind_is_refused(tiny: Path, tmp_path: Path) -> None:
    config = tiny_models.load(tiny).model.config.text_config
    config.save_pretrained(tmp_path / "model")
    tiny_models.load(tiny).processor.save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="model_type is llama, wanted one of llava, llava_next"):
        tiny_models.load(tmp_path)


def test_only_the_language_model_is_quantized(built: dict[str, Llava]) -> None:
    quantized = tiny_models.load(anyres.directory_of(built["next, mistral"]), quantization="nf4")
    layers = [
        name
        for name, layer in quantized.model.named_modules()
        if isinstance(layer, bitsandbytes.nn.Linear4bit)
    ]
    assert len(layers) == 2 * 7
    assert all("language_model" in name for name in layers)


def test_the_blind_test_scores_with_other_images_and_a_blank_one(
    llava: Llava, tmp_path: Path
) -> None:
    model = kit.build(llava, kit.options("llava_head"))
    kit.shake(model)
    prompts = anyres.prompts_of(llava)
    first, second = (response_batch([text] * 4, llava.builder) for text in ("red", "a blue star"))
    pairs = PreferenceBatch(prompts, first, second, torch.ones(4))
    items: dict[str, Any] = {
        "response_a": "red",
        "response_b": "a blue star",
        "preference": "response_a",
    }
    records = [PreferenceRecord("a.png", text, **items) for text in anyres.QUESTIONS]
    blank = write_blank_image(tmp_path / "blank.png")
    result = evaluate_pairs(model, records, pairs, blank, max_tokens=400)
    own_scores, shuffled, blank_scores = (x.scores_a for x in result.tests[BLINDNESS].all)
    assert not torch.equal(own_scores, shuffled) and not torch.equal(own_scores, blank_scores)


def test_images_of_any_size_are_described(llava: Llava) -> None:
    captioner = Captioner(llava, "Describe the picture.", max_new_tokens=4)
    batched = captioner.captions(anyres.images(llava))
    for image, caption in zip(anyres.images(llava), batched, strict=True):
        single_captioner = Captioner(llava, "Describe the picture.", max_new_tokens=4)
        assert single_captioner.captions([image]) == [caption]


def test_the_plan_is_for_the_largest_image_of_the_grid(llava: Llava, tmp_path: Path) -> None:
    dims = read_dims(str(anyres.directory_of(llava) / "model"))
    counts = []
    for height, width in anyres.GRID:
        image = anyres.write_image(tmp_path / f"{height}x{width}.png", width, height)
        counts += llava.builder.image_tokens([image])
    assert dims.image_tokens == max(counts)
    height, width = anyres.GRID[counts.index(max(counts))]
    tiles = llava.vision.encode(tmp_path / f"{height}x{width}.png").tiles
    assert tiles.shape == (dims.image_tiles, dims.tile_tokens, dims.vision_feature_size)


def test_the_plan_of_the_published_sizes() -> None:
    """NeXT: 2 x 2 tiles of 24 x 24 tokens, 48 newline tokens, and the tile of the whole image.

    OneVision shrinks an image of 5 x 2 tiles of 27 x 27, a fifth over 9 tiles; 135 newline tokens.
    """
    next_dims = dims_of(LlavaNextConfig())
    assert (next_dims.image_tokens, next_dims.image_tiles) == (4 * 576 + 48 + 576, 5)
    onevision = dims_of(LlavaOnevisionConfig())
    assert (onevision.image_tokens, onevision.image_tiles) == (10 * 729 + 135 + 729, 11)
    llava = dims_of(LlavaConfig(image_token_index=5))
    assert (llava.image_tokens, llava.image_tiles, llava.tile_tokens) == (576, 1, 576)
    assert vision_flops(next_dims) == 5 * vision_flops(llava)
    assert (
        estimate_memory(next_dims, WORKLOAD).image_feature_bytes
        == 5 * estimate_memory(llava, WORKLOAD).image_feature_bytes
    )


def test_a_tower_without_a_class_token_keeps_all_its_patches(tiny: Path, tmp_path: Path) -> None:
    config = LlavaConfig.from_pretrained(tiny / "model")
    tower = {"image_size": 48, "patch_size": 12, "hidden_size": 32, "num_hidden_layers": 2}
    config.vision_config = SiglipVisionConfig(**tower, num_attention_heads=2, intermediate_size=32)
    config.vision_feature_select_strategy, config.vision_feature_layer = "full", -1
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    AutoProcessor.from_pretrained(tiny / "model").save_pretrained(tmp_path / "model")
    llava = tiny_models.load(tmp_path)
    prompts = tiny_models.prompts_of(llava, tiny)
    with torch.no_grad():
        llava.response_hidden_states(prompts, tiny_models.responses_of(llava))
    assert llava.builder.image_tokens([Path()]) == [16]
