"""Activated LoRA: prompts run on the base model without adapter, and peft gives the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from rlhf.config.schema import SamplingConfig
from rlhf.data.images import load_image
from rlhf.errors import UsageError
from rlhf.generation.sampler import generate
from rlhf.kernels import token_logprobs
from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY
from rlhf.types import Responses
from tests.support import tiny_models

ATOL: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def llava(tiny: Path) -> Llava:
    """With a policy adapter that is not fresh."""
    return adapted(tiny, "alora")


def adapted(tiny: Path, lora_type: str) -> Llava:
    torch.manual_seed(0)
    llava = tiny_models.load(tiny)
    llava.adapters.add(POLICY, rank=4, alpha=8, lora_type=lora_type)  # type: ignore[arg-type]
    with torch.no_grad():
        for value in llava.adapters.tensors(POLICY).values():
            value.add_(0.1 * torch.randn_like(value))
    return llava


def logits_of(llava: Llava, tiny: Path, responses: Responses) -> list[Tensor]:
    with torch.no_grad():
        hidden = llava.response_hidden_states(tiny_models.prompts_of(llava, tiny), responses)
    return list((hidden @ llava.output_weight.T).split(responses.spans.lengths.tolist()))


def peft_model(llava: Llava, directory: Path) -> PeftModel:
    llava.adapters.save(POLICY, directory, llava.base)
    base = LlavaForConditionalGeneration.from_pretrained(llava.base, dtype=torch.float32)
    return PeftModel.from_pretrained(base, directory).eval()


def inputs(llava: Llava, tiny: Path, row: int) -> dict[str, Tensor]:
    """A prompt as the classes of transformers take it."""
    prompts = tiny_models.prompts_of(llava, tiny)
    image = load_image(prompts.images[row][0])
    pixels = llava.processor.image_processor(image, return_tensors="pt").pixel_values
    ids = prompts.select(torch.tensor([row])).tokens.unsqueeze(0)
    return {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}


def test_the_invocation_is_what_ends_every_prompt(llava: Llava, tiny: Path) -> None:
    ids = llava.builder.invocation_ids()
    assert llava.processor.tokenizer.decode(ids) == " ASSISTANT:"
    for text in ("", "a", "Who is the ASSISTANT:", "ASSISTANT: ASSISTANT:"):
        assert llava.builder.prompt_ids(text, ())[-len(ids) :] == ids


def test_peft_gives_the_same_logits(llava: Llava, tiny: Path, tmp_path: Path) -> None:
    responses, model = tiny_models.responses_of(llava), peft_model(llava, tmp_path)
    logits = logits_of(llava, tiny, responses)
    lora_logits = logits_of(adapted(tiny, "lora"), tiny, responses)
    for row, tokens in enumerate(responses.rows()):
        arguments = inputs(llava, tiny, row)
        start = arguments["input_ids"].shape[1] - 1
        ids = torch.cat([arguments["input_ids"], torch.as_tensor(tokens).unsqueeze(0)], dim=1)
        arguments |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            expected = model(**arguments).logits[0, start:-1]
            with model.disable_adapter():
                base = model(**arguments).logits[0, start:-1]
        torch.testing.assert_close(logits[row], expected, **ATOL)
        assert float((logits[row] - base).abs().max()) > 1e-2
        assert float((logits[row] - lora_logits[row]).abs().max()) > 1e-3


def test_peft_generates_the_same_responses(llava: Llava, tiny: Path, tmp_path: Path) -> None:
    model = peft_model(llava, tmp_path)
    greedy = SamplingConfig(temperature=0, max_new_tokens=6)
    generated, _ = generate(llava, tiny_models.prompts_of(llava, tiny), greedy)
    banned = [[token] for token in llava.banned_ids]
    for row, tokens in enumerate(generated.rows()):
        arguments = inputs(llava, tiny, row)
        response = model.generate(
            **arguments, do_sample=False, max_new_tokens=6, bad_words_ids=banned, pad_token_id=0
        )
        assert response[0, arguments["input_ids"].shape[1] :].tolist() == list(tokens)


def test_an_invocation_inside_a_response_does_not_move_the_start(llava: Llava, tiny: Path) -> None:
    """The response tokens before it keep their hidden states."""
    invocation = torch.tensor(llava.builder.invocation_ids())
    responses = tiny_models.responses_of(llava)
    rows = [torch.as_tensor(row) for row in responses.rows()]
    repeated = [torch.cat([row, invocation, row]) for row in rows]
    spans = type(responses.spans).from_lengths([len(row) for row in repeated])
    longer = Responses(torch.cat(repeated), spans, responses.finished)
    for expected, logits in zip(
        logits_of(llava, tiny, responses), logits_of(llava, tiny, longer), strict=True
    ):
        torch.testing.assert_close(logits[: len(expected)], expected, **ATOL)


def test_a_fresh_adapter_changes_nothing_and_gradients_reach_it(tiny: Path) -> None:
    base, llava = tiny_models.load(tiny), tiny_models.load(tiny)
    llava.adapters.add(POLICY, rank=4, alpha=8, lora_type="alora")
    responses = tiny_models.responses_of(llava)
    for first, second in zip(
        logits_of(base, tiny, responses), logits_of(llava, tiny, responses), strict=True
    ):
        torch.testing.assert_close(first, second, **ATOL)
    llava.response_hidden_states(
        tiny_models.prompts_of(llava, tiny, 2), tiny_models.responses_of(llava, 2)
    ).sum().backward()
    # Response tokens use the q, k and v of every layer, so that every factor B is reached.
    grads = {k: v.grad for k, v in llava.adapters.tensors(POLICY).items() if ".lora_B." in k}
    assert grads and all(grad is not None and bool(grad.any()) for grad in grads.values())


def test_sampled_logprobs_are_those_of_the_forward(llava: Llava, tiny: Path) -> None:
    prompts = tiny_models.prompts_of(llava, tiny)
    responses, sampled = generate(llava, prompts, SamplingConfig(max_new_tokens=6))
    with torch.no_grad():
        hidden = llava.response_hidden_states(prompts, responses)
        logprobs, _ = token_logprobs(
            hidden, llava.output_weight, responses.tokens, banned_ids=llava.banned_ids
        )
    torch.testing.assert_close(logprobs, sampled.logprobs, atol=1e-4, rtol=0)


def test_it_is_saved_and_loaded_with_its_type(llava: Llava, tiny: Path, tmp_path: Path) -> None:
    llava.adapters.save(POLICY, tmp_path, llava.base)
    loaded = tiny_models.load(tiny)
    loaded.adapters.load(POLICY, tmp_path, trains=False)
    assert loaded.adapters.lora_type == llava.adapters.lora_type == "alora"
    responses = tiny_models.responses_of(llava)
    for first, second in zip(
        logits_of(llava, tiny, responses), logits_of(loaded, tiny, responses), strict=True
    ):
        assert torch.equal(first, second)


def test_refusals(llava: Llava, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be merged"):
        llava.adapters.merge(POLICY)
    llava.adapters.save(POLICY, tmp_path, llava.base)
    other_model = tiny_models.load(tiny)
    other_model.adapters.invocation = [5, 6]
    with pytest.raises(UsageError, match="invocation differs"):
        other_model.adapters.load(POLICY, tmp_path, trains=False)
    other_model.adapters.invocation = []
    with pytest.raises(UsageError, match="no fixed ids end"):
        other_model.adapters.add(POLICY, rank=4, alpha=8, lora_type="alora")
    prompts = tiny_models.prompts_of(llava, tiny, 1)
    truncated = prompts.truncate(prompts.spans.lengths - 1)
    with pytest.raises(ValueError, match="wanted each to end with"):
        llava.response_hidden_states(truncated, tiny_models.responses_of(llava, 1))
