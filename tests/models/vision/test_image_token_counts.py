"""Images whose number of tokens depends on their size: LLaVA-NeXT and LLaVA-OneVision."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image

from rlhf.config.schema import LoraType, ModelConfig, SamplingConfig
from rlhf.data.image_token_counts import FixedTokenCounter
from rlhf.data.images import load_image
from rlhf.data.tokenization import reencode_prompts, with_images
from rlhf.errors import DataError
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.models.packed.embedding import embed_prompts
from rlhf.models.policy import build_policy
from rlhf.models.vision.feature_cache import FeatureCache, ImageFeatures
from rlhf.spans import Spans
from rlhf.types import PromptBatch
from tests.support import anyres, tiny_models


def hf_inputs(llava: Llava, texts: list[str], paths: list[Path]) -> Any:
    """Prompts as the processor of transformers encodes them, padded on the left."""
    images = [load_image(path) for path in paths]
    return llava.processor(images=images, text=texts, return_tensors="pt", padding=True)


def prompt_text(row: int) -> str:
    return f"USER: <image>\n{anyres.QUESTIONS[row]} ASSISTANT:"


def test_tokens_counted_from_the_size_are_those_of_transformers(llava: Llava) -> None:
    counts = []
    for path in anyres.images(llava):
        inputs = llava.processor.image_processor(load_image(path), return_tensors="pt")
        with torch.no_grad():
            (expected,) = llava.model.get_image_features(**inputs).pooler_output
        assert torch.equal(llava.vision.embeddings([[path]])[0], expected)
        assert llava.builder.image_tokens([path]) == [len(expected)]
        counts.append(len(expected))
    assert len({*counts}) >= 5  # otherwise the sizes would be too alike


def test_an_image_of_one_tile_is_counted_by_hand(llava: Llava) -> None:
    """16 patches of the whole image, and 4 rows of 4 patches and a newline token of the tile."""
    assert llava.builder.image_tokens([anyres.images(llava)[4]]) == [16 + 4 * (4 + 1)]


def test_a_rotated_photo_is_counted_upright(llava: Llava, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90°
    Image.new("RGB", (90, 20)).save(path := tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (20, 90)).save(upright := tmp_path / "upright.jpg")
    Image.new("RGB", (90, 20)).save(rotated_path := tmp_path / "lying.jpg")
    rotated, expected, unrotated = (
        llava.builder.image_tokens([x]) for x in (path, upright, rotated_path)
    )
    assert rotated == expected != unrotated
    assert [len(llava.vision.embeddings([[path]])[0])] == rotated


def test_a_tiled_image_is_opened_once_for_its_size(
    llava: Llava, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = anyres.images(llava)[0]
    first = llava.builder.image_tokens([path])
    monkeypatch.setattr("rlhf.data.image_token_counts.image_size", None)
    assert llava.builder.image_tokens([path]) == first
    assert FixedTokenCounter(16)([Path("not there.png")] * 2) == [16, 16]


def test_prompts_and_logits_are_those_of_transformers(llava: Llava) -> None:
    prompts, responses = anyres.prompts_of(llava), tiny_models.responses_of(llava)
    assert len({*prompts.spans.lengths.tolist()}) == 4
    with torch.no_grad():
        logits = llava.response_hidden_states(prompts, responses) @ llava.output_weight.T
    rows = prompts.tokens.split(prompts.spans.lengths.tolist())
    for row, part in enumerate(logits.split(responses.spans.lengths.tolist())):
        inputs = hf_inputs(llava, [prompt_text(row)], anyres.images(llava)[row : row + 1])
        assert inputs.input_ids[0].tolist() == rows[row].tolist()
        response = torch.tensor([responses.rows()[row]])
        ids = torch.cat([inputs.input_ids, response], dim=1)
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            hf_logits = llava.model(**inputs).logits[0, len(rows[row]) - 1 : -1]
        torch.testing.assert_close(part, hf_logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lora_type", get_args(LoraType))
def test_greedy_responses_in_a_batch_are_those_of_transformers(
    llava: Llava, lora_type: LoraType
) -> None:
    build_policy(
        llava,
        ModelConfig(lora_rank=4, lora_type=lora_type),
        temperature=1.0,
        critic="shared_detached",
    )
    prompts = anyres.prompts_of(llava, 2)
    greedy = SamplingConfig(temperature=0, max_new_tokens=8)
    responses, _ = generate(llava, prompts, greedy)
    inputs = hf_inputs(llava, [prompt_text(0), prompt_text(1)], anyres.images(llava)[:2])
    banned = [[token] for token in llava.banned_ids]
    with llava.adapters.use(None):
        output = llava.model.generate(
            **inputs, do_sample=False, max_new_tokens=8, bad_words_ids=banned
        )
    new = output[:, inputs.input_ids.shape[1] :]
    for row, tokens in enumerate(responses.rows()):
        assert new[row, : len(tokens)].tolist() == tokens


def test_a_row_does_not_depend_on_the_rest_of_its_batch(llava: Llava) -> None:
    prompts = anyres.prompts_of(llava)
    responses = tiny_models.responses_of(llava)
    with torch.no_grad():
        batched = llava.response_hidden_states(prompts, responses)
        for row, part in enumerate(batched.split(responses.spans.lengths.tolist())):
            index = torch.tensor([row])
            single = llava.response_hidden_states(prompts.select(index), responses.select(index))
            torch.testing.assert_close(single, part, atol=1e-5, rtol=1e-5)


def test_the_projector_gets_the_gradient_of_transformers(llava: Llava) -> None:
    path, projector = anyres.images(llava)[3], llava.model.model.multi_modal_projector
    projector.requires_grad_(True)
    llava.model.model.image_newline.requires_grad_(True)
    trained = [*projector.parameters(), llava.model.model.image_newline]
    weights = torch.randn(llava.builder.image_tokens([path])[0], llava.hidden_size)
    inputs = llava.processor.image_processor(load_image(path), return_tensors="pt")
    (tokens,) = llava.model.get_image_features(**inputs).pooler_output
    gradients = torch.autograd.grad((llava.vision.embeddings([[path]])[0] * weights).sum(), trained)
    for gradient, expected in zip(
        gradients, torch.autograd.grad((tokens * weights).sum(), trained), strict=True
    ):
        torch.testing.assert_close(gradient, expected)


def test_a_wrong_number_of_placeholders_names_both_numbers(llava: Llava) -> None:
    prompts = anyres.prompts_of(llava, 2)
    responses = tiny_models.responses_of(llava, 2)
    swapped = replace(prompts, images=prompts.mismatched_images())
    counts = [llava.builder.image_tokens(row)[0] for row in prompts.images]
    message = f"row 0 has {counts[0]} image placeholders for 1 images of {counts[1]} features"
    with pytest.raises(ValueError, match=message):
        llava.response_hidden_states(swapped, responses)


def test_other_images_come_with_their_own_placeholders(llava: Llava) -> None:
    prompts = anyres.prompts_of(llava)
    others = with_images(prompts, prompts.mismatched_images(), llava.builder)
    assert others.images == (*prompts.images[1:], prompts.images[0])
    counts = [int((row == llava.image_token_id).sum()) for row in others.tokens.split(
        others.spans.lengths.tolist()
    )]  # fmt: skip
    assert counts == [llava.builder.image_tokens(row)[0] for row in others.images]
    with torch.no_grad():
        llava.response_hidden_states(others, tiny_models.responses_of(llava))
    assert torch.equal(reencode_prompts(others, llava.builder).tokens, others.tokens)


def test_two_images_in_a_prompt(llava: Llava) -> None:
    """OneVision encodes several images in another way, which is refused."""
    paths, builder = anyres.images(llava)[:2], llava.builder
    if llava.model.config.model_type == "llava_onevision":
        with pytest.raises(DataError, match="one image"):
            builder.prompt_ids("Compare.", paths)
        return
    text = "USER: <image>\n<image>\nCompare. ASSISTANT:"
    inputs = hf_inputs(llava, [text], paths)
    ids = builder.prompt_ids("Compare.", paths)
    assert ids == inputs.input_ids[0].tolist()
    with torch.no_grad():
        embeds = embed_prompts(
            PromptBatch(
                torch.tensor(ids),
                Spans.from_lengths([len(ids)]),
                (tuple(paths),),
                torch.zeros(1, dtype=torch.int64),
                ("Compare.",),
            ),
            llava.vision,
        )
        expected = llava.model.get_image_features(inputs.pixel_values, inputs.image_sizes)
    placeholders = torch.tensor(ids) == llava.image_token_id
    torch.testing.assert_close(embeds[placeholders], torch.cat(expected.pooler_output))


def test_equal_images_share_their_features(llava: Llava) -> None:
    path = anyres.images(llava)[0]
    assert llava.vision.features(path) is llava.frozen_copy().vision.features(path)


def test_the_feature_cache_is_bounded_and_drops_the_least_recently_used() -> None:
    encoded: list[str] = []

    def encode(path: Path) -> ImageFeatures:
        encoded.append(path.name)
        return ImageFeatures(torch.zeros(1, 4, 64), (1, 1))  # 1 KiB

    cache = FeatureCache(limit=2 / 2**20)  # two of them
    a, b, c = map(Path, "abc")
    for path in (a, b, a, c, a, b):  # c drops b, then b drops c
        cache.get(path, encode)
    assert "".join(encoded) == "abcb"
    assert (len(cache), cache.bytes) == (2, 2048)
    cache.put(a, ImageFeatures(torch.zeros(1, 2, 64), (1, 1)))
    assert cache.bytes == 1024 + 512
    assert FeatureCache(limit=0.0).get(a, encode).size == (1, 1)
    assert FeatureCache().limit == 4.0
