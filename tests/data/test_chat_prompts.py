"""Special tokens that a person types become text; those of the template keep their ids."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.chat_prompts import PromptBuilder
from rlhf.data.collate import prompt_batch
from rlhf.data.image_token_counts import FixedTokenCounter
from rlhf.data.records import PromptRecord
from rlhf.errors import DataError, UsageError
from rlhf.models.llava import Llava
from tests.support import tiny_models

IMAGE = [Path("not opened.png")]


@pytest.fixture(scope="session")
def llava(tiny: Path) -> Llava:
    return tiny_models.load(tiny)


def test_an_ordinary_prompt_is_that_of_the_processor(llava: Llava) -> None:
    text = "USER: <image>\nWhat colour is the circle? ASSISTANT:"
    expanded = text.replace("<image>", "<image>" * 16)
    stock = llava.processor.tokenizer(expanded).input_ids
    assert llava.builder.prompt_ids("What colour is the circle?", IMAGE) == stock


def test_a_response_continues_the_prompt_as_the_template_writes_it(llava: Llava) -> None:
    builder = llava.builder
    ids = builder.prompt_ids("What?", IMAGE) + builder.response_ids("a red star")
    conversation = "USER: " + "<image>" * 16 + "\nWhat? ASSISTANT: a red star</s>"
    assert ids == llava.processor.tokenizer(conversation).input_ids
    assert builder.decode(builder.response_ids("a red star")) == "a red star"


@pytest.mark.parametrize(
    "typed", ["<image>", "</s>", "<pad>", "<image><image>", "a </s> b <image>"]
)
def test_special_tokens_typed_by_a_user_become_text(llava: Llava, typed: str) -> None:
    specials = set(llava.processor.tokenizer.all_special_ids) | {llava.image_token_id}
    ids = llava.builder.prompt_ids(f"What is {typed}?", IMAGE)
    assert sum(token == llava.image_token_id for token in ids) == 16
    assert sum(token in specials for token in ids) == 16
    response = llava.builder.response_ids(f"It is {typed}.")
    assert [token for token in response if token in specials] == [response[-1]]
    assert llava.builder.decode(response) == f"It is {typed}."


PIECES = [
    "<image>",
    "</s>",
    "<pad>",
    "<ima",
    "ge>",
    "<",
    "/s>",
    "@@",
    "instruction",
    " ",
    "\n",
    "é",
    "图",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), min_size=1, max_size=8))
def test_no_text_places_an_image_or_ends_a_turn(llava: Llava, pieces: list[str]) -> None:
    specials = set(llava.processor.tokenizer.all_special_ids) - {llava.image_token_id}
    ids = llava.builder.prompt_ids("".join(pieces), IMAGE)
    assert sum(token == llava.image_token_id for token in ids) == 16
    assert not specials & set(ids)


def test_text_that_looks_like_the_stand_in_is_left_alone(llava: Llava) -> None:
    ids = llava.builder.prompt_ids("say @@instruction@@ and @@response@@", IMAGE)
    assert "say @@instruction@@ and @@response@@" in llava.processor.tokenizer.decode(ids)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_each_image_takes_its_placeholders(llava: Llava, count: int) -> None:
    ids = llava.builder.prompt_ids("Compare.", IMAGE * count)
    assert sum(token == llava.image_token_id for token in ids) == 16 * count


def test_a_processor_without_a_template_is_refused(tiny: Path) -> None:
    processor = tiny_models.load(tiny).processor
    processor.chat_template = None
    with pytest.raises(UsageError, match="chat template"):
        PromptBuilder(processor, FixedTokenCounter(16))


def test_long_prompts_are_refused_not_cut(llava: Llava, tiny: Path) -> None:
    record = PromptRecord("pictures/00000.png", "why " * 100)
    with pytest.raises(DataError, match="limit is 50"):
        prompt_batch([record], llava.builder, tiny, max_tokens=50)


def test_images_outside_the_root_are_refused(llava: Llava, tiny: Path) -> None:
    with pytest.raises(DataError):
        prompt_batch([PromptRecord("../x.png", "what")], llava.builder, tiny, max_tokens=90)
