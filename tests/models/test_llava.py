"""Hidden states of a row do not depend on padding, other rows, their images, or other adapters."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlavaForConditionalGeneration

from rlhf.models.llava import Llava
from rlhf.models.packed.packing import pack
from rlhf.models.packed.prefix_sharing import Sharing
from rlhf.spans import Spans
from tests.support import tiny_models


def hf_logits(llava: Llava, row: int, tiny: Path, pads: int) -> torch.Tensor:
    """Logits of one row by transformers, from pixels, with `pads` on the left."""
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    ids = torch.cat(
        [
            torch.full((pads,), llava.processor.tokenizer.pad_token_id),
            prompts.select(torch.tensor([row])).tokens,
            responses.select(torch.tensor([row])).tokens,
        ]
    ).unsqueeze(0)
    mask = torch.ones_like(ids)
    mask[:, :pads] = 0
    from rlhf.data.images import load_image

    pixels = llava.processor.image_processor(
        load_image(prompts.images[row][0]), return_tensors="pt"
    ).pixel_values
    with torch.no_grad():
        return llava.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            pixel_values=pixels,
        ).logits[0, pads:]


@pytest.mark.parametrize("pads", [0, 1, 7, 33])
def test_hidden_states_equal_those_of_transformers_under_left_padding(
    llava: Llava, tiny: Path, pads: int
) -> None:
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    with torch.no_grad():
        hidden = llava.response_hidden_states(prompts, responses)
    logits = hidden @ llava.output_weight.T
    for row, part in enumerate(logits.split(responses.spans.lengths.tolist())):
        start = int(prompts.spans.lengths[row]) - 1
        expected = hf_logits(llava, row, tiny, pads)[start : start + len(part)]
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-5)


def test_final_state_is_that_of_the_last_response_token(llava: Llava, tiny: Path) -> None:
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    with torch.no_grad():
        final = llava.final_hidden_states(prompts, responses) @ llava.output_weight.T
    for row in range(4):
        expected = hf_logits(llava, row, tiny, 0)[-1]
        torch.testing.assert_close(final[row], expected, atol=1e-5, rtol=1e-5)


def test_a_row_does_not_depend_on_the_rest_of_its_batch(llava: Llava, tiny: Path) -> None:
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        expected = llava.response_hidden_states(prompts, responses)
        shuffled = llava.response_hidden_states(prompts.select(order), responses.select(order))
    indices = responses.spans.token_indices(order)
    torch.testing.assert_close(shuffled, expected[indices], atol=1e-5, rtol=1e-5)


def test_forward_of_whole_rows_equals_that_in_two_parts(llava: Llava, tiny: Path) -> None:
    """Where there is no flash kernel with a normaliser, rows with prompts of their own go whole."""
    llava.train_language_model()
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    hidden_states, gradients = [], []
    for sharing in (Sharing(llava.image_token_id, always=True), None):
        llava.model.zero_grad(set_to_none=True)
        packed = pack(prompts, responses, sharing, include_last=True)
        hidden = llava.forward(packed)
        hidden.square().sum().backward()
        hidden_states.append(hidden.detach())
        gradients.append([x.grad for x in llava.model.parameters() if x.requires_grad])
    torch.testing.assert_close(hidden_states[0], hidden_states[1], atol=1e-5, rtol=1e-5)
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_the_last_layer_computes_only_the_rows_that_are_read(llava: Llava, tiny: Path) -> None:
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    attention = llava.model.model.language_model.layers[-1].self_attn
    row_counts: dict[str, list[int]] = {"q_proj": [], "k_proj": []}
    for name, counts in row_counts.items():
        forward = getattr(attention, name).forward
        getattr(attention, name).forward = partial(_counting, forward, counts)
    with torch.no_grad():
        llava.response_and_final_hidden_states(prompts, responses)
        llava.response_hidden_states(prompts, responses)
        llava.prefill(prompts, 3)
    response_tokens, prompt_tokens = responses.spans.num_tokens, prompts.spans.num_tokens - 4
    assert row_counts["k_proj"] == [
        response_tokens + 4 + prompt_tokens,
        response_tokens + prompt_tokens,
        prompt_tokens,
        4,
    ]
    assert row_counts["q_proj"] == [response_tokens + 4, response_tokens, 1, 4]


Product = Callable[[torch.Tensor], torch.Tensor]


def _counting(product: Product, counts: list[int], states: torch.Tensor) -> torch.Tensor:
    counts.append(states.shape[1])
    return product(states)


def test_a_prompt_that_ends_with_an_image_is_refused(llava: Llava, tiny: Path) -> None:
    prompts, responses = tiny_models.prompts_of(llava, tiny, 2), tiny_models.responses_of(llava, 2)
    image_end = (
        int(prompts.tokens[: prompts.spans.offsets[1]].eq(llava.image_token_id).nonzero()[-1]) + 1
    )
    lengths = torch.tensor([image_end, int(prompts.spans.lengths[1])])
    tokens = torch.cat([prompts.tokens[:image_end], prompts.tokens[prompts.spans.offsets[1] :]])
    ending_with_image = replace(prompts, tokens=tokens, spans=Spans.from_lengths(lengths.tolist()))
    with pytest.raises(ValueError, match="wanted text at the end of each, got an image"):
        llava.response_hidden_states(ending_with_image, responses)


def test_cached_features_equal_fresh_ones_to_the_bit(llava: Llava, tiny: Path) -> None:
    for row in range(3):
        path = tiny / f"pictures/{row:05d}.png"
        first = llava.vision.features(path)
        assert llava.vision.features(path) is first
        assert torch.equal(first.tiles, llava.vision.encode(path).tiles)


def test_embeddings_equal_those_of_transformers(llava: Llava, tiny: Path) -> None:
    from rlhf.data.images import load_image

    path = tiny / "pictures/00001.png"
    pixels = llava.processor.image_processor(load_image(path), return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = llava.model.get_image_features(pixel_values=pixels).pooler_output[0]
    assert torch.equal(llava.vision.embeddings([[path]])[0], expected)


def test_images_are_counted_row_by_row(llava: Llava, tiny: Path) -> None:
    """Two images in row 0 and none in row 1 add up over the batch, and must still be refused."""
    prompts = tiny_models.prompts_of(llava, tiny, 2)
    both_in_row_0 = replace(prompts, images=((*prompts.images[0], *prompts.images[1]), ()))
    with pytest.raises(ValueError, match="row 0 has 16 image placeholders for 2 images"):
        llava.response_hidden_states(both_in_row_0, tiny_models.responses_of(llava, 2))


def test_rows_with_zero_one_and_two_images_can_be_shuffled(llava: Llava, tiny: Path) -> None:
    paths = [tiny / f"pictures/{row:05d}.png" for row in range(3)]
    rows = [llava.builder.prompt_ids("Describe the picture.", paths[:n]) for n in (0, 1, 2)]
    base = tiny_models.prompts_of(llava, tiny, 3)
    prompts = replace(
        base,
        tokens=torch.tensor([token for row in rows for token in row]),
        spans=Spans.from_lengths([len(row) for row in rows]),
        images=((), (paths[0],), (paths[1], paths[2])),
    )
    responses, order = tiny_models.responses_of(llava, 3), torch.tensor([2, 1, 0])
    with torch.no_grad():
        expected = llava.response_hidden_states(prompts, responses)
        reverse = llava.response_hidden_states(prompts.select(order), responses.select(order))
    index = responses.spans.token_indices(order)
    torch.testing.assert_close(reverse, expected[index], atol=1e-5, rtol=1e-5)


def test_another_image_changes_the_hidden_states(llava: Llava, tiny: Path) -> None:
    prompts, responses = tiny_models.prompts_of(llava, tiny, 2), tiny_models.responses_of(llava, 2)
    swapped = replace(prompts, images=prompts.images[::-1])
    with torch.no_grad():
        hidden = llava.response_hidden_states(prompts, responses)
        swapped_hidden = llava.response_hidden_states(swapped, responses)
    assert float((hidden - swapped_hidden).abs().max()) > 1e-3


def test_adapters_are_on_the_language_model_only_and_float32(llava: Llava) -> None:
    llava.adapters.add("policy", rank=4, alpha=8)
    tensors = llava.adapters.tensors("policy")
    assert tensors
    assert all("language_model" in name and "vision_tower" not in name for name in tensors)
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    trained = {name for name, value in llava.model.named_parameters() if value.requires_grad}
    assert trained == set(tensors)


def perturb(llava: Llava, name: str) -> None:
    with torch.no_grad():
        for value in llava.adapters.tensors(name).values():
            value.add_(0.1 * torch.randn_like(value))


def test_adapters_do_not_affect_each_other(llava: Llava, tiny: Path) -> None:
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    with torch.no_grad():
        base = llava.response_hidden_states(prompts, responses)
        llava.adapters.add("reward", rank=4, alpha=8)
        perturb(llava, "reward")
        llava.adapters.add("policy", rank=4, alpha=8)
        fresh = llava.response_hidden_states(prompts, responses)
        with llava.adapters.use("reward"):
            reward = llava.response_hidden_states(prompts, responses)
            with llava.adapters.use(None):
                base_hidden = llava.response_hidden_states(prompts, responses)
    assert torch.equal(base, base_hidden)
    torch.testing.assert_close(fresh, base)
    assert float((reward - base).abs().max()) > 1e-3
    assert llava.adapters.current == "policy"


def test_a_saved_adapter_loads_with_peft_and_gives_the_same_logits(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    llava.adapters.add("reward", rank=4, alpha=8)
    llava.adapters.add("policy", rank=4, alpha=8)
    perturb(llava, "policy")
    llava.adapters.save("policy", tmp_path / "adapter", llava.base)
    logits = hf_logits(llava, 2, tiny, 0)
    model = LlavaForConditionalGeneration.from_pretrained(llava.base, dtype=torch.float32)
    loaded = tiny_models.load(tiny)
    loaded.model = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    assert torch.equal(hf_logits(loaded, 2, tiny, 0), logits)


def test_save_and_load_are_bit_equal(llava: Llava, tiny: Path, tmp_path: Path) -> None:
    llava.save(tmp_path)
    loaded = Llava.load(str(tmp_path), device=torch.device("cpu"), dtype=torch.float32)
    for (name, first), (_, second) in zip(
        llava.model.named_parameters(), loaded.model.named_parameters(), strict=True
    ):
        assert torch.equal(first, second), name
    assert loaded.banned_ids == llava.banned_ids and loaded.eos_ids == llava.eos_ids


def test_banned_ids_are_the_placeholder_and_the_pad_but_never_eos(llava: Llava) -> None:
    tokenizer = llava.processor.tokenizer
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert llava.banned_ids == sorted([tokenizer.pad_token_id, image])
    tokenizer.pad_token = tokenizer.eos_token
    assert llava.banned_ids == [image]
