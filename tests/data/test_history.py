"""Earlier turns stand in the prompt as the stock processor writes them, and as text only."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.chat_prompts import PromptBuilder
from rlhf.data.collate import prompt_batch
from rlhf.data.image_token_counts import FixedTokenCounter
from rlhf.data.prompt_keys import prompt_keys
from rlhf.data.records import PromptRecord, read_records, write_records
from rlhf.data.token_limits import TokenLimits
from rlhf.data.tokenization import reencode_prompts
from rlhf.errors import DataError
from rlhf.history import Exchange, History, history_texts, transcript
from tests.support.chat_templates import FORMS, processor_of
from tests.support.hostile_prompts import hostile_text, pieces, special_ids
from tests.support.processors import LLAVA_TEMPLATE, NAMES, PROCESSORS, build_processor

IMAGE = [Path("not opened.png")]
HISTORY = (Exchange("What is it?", "A red star."), Exchange(" Where? \n", " on  the é 图\n"))


def builder_of(processor: Any) -> PromptBuilder:
    return PromptBuilder(processor, FixedTokenCounter(16))


def stock_ids(processor: Any, history: History, instruction: str) -> list[int]:
    """The ids that the stock processor and tokenizer give a conversation, 16 for its image."""
    turns = []
    for number, text in enumerate((*history_texts(history), instruction)):
        image = [{"type": "image"}] if not number else []
        role = "assistant" if number % 2 else "user"
        turns.append({"role": role, "content": [*image, {"type": "text", "text": text}]})
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return list(processor.tokenizer(text.replace("<image>", "<image>" * 16)).input_ids)


@pytest.mark.parametrize("exchanges", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_stock_processor(name: str, exchanges: int) -> None:
    processor, history = PROCESSORS[name](), HISTORY[:exchanges]
    ids = builder_of(processor).prompt_ids("What colour?", IMAGE, history)
    assert ids == stock_ids(processor, history, "What colour?")
    assert ids.count(processor.image_token_id) == 16


@pytest.mark.parametrize("name", [name for name in FORMS if "language" not in name])
def test_every_form_of_template_writes_earlier_turns(name: str) -> None:
    processor = processor_of(FORMS[name])
    ids = builder_of(processor).prompt_ids(" hi ", IMAGE, HISTORY)
    assert ids == stock_ids(processor, HISTORY, " hi ")


def test_a_template_of_a_language_model_has_the_image_in_the_first_turn() -> None:
    builder = builder_of(processor_of(FORMS["llama-3 of a language model"]))
    ids = builder.prompt_ids("hi", IMAGE, HISTORY[:1])
    text = builder.tokenizer.decode(ids).replace("<image>" * 16, "<image>")
    header = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    assert text == (
        header("user")
        + "<image>\nWhat is it?<|eot_id|>"
        + header("assistant")
        + "A red star.<|eot_id|>"
        + header("user")
        + "hi<|eot_id|>"
        + header("assistant")
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_text_of_an_earlier_turn_is_structure(name: str) -> None:
    processor = PROCESSORS[name]()
    builder, specials = builder_of(processor), special_ids(processor.tokenizer)
    rng, parts = random.Random(3), pieces(processor.tokenizer)

    def structure(*texts: str) -> list[int]:
        history = (Exchange(*texts[:2]), Exchange(*texts[2:4]))
        ids = builder.prompt_ids(texts[4], IMAGE, history)
        return [token for token in ids if token in specials]

    wanted = structure(*"abcde")
    for _ in range(150):
        assert structure(*(hostile_text(rng, parts) for _ in range(5))) == wanted


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_characters="<>▁", exclude_categories=["Cs"]), max_size=9),
        min_size=5,
        max_size=5,
    )
)
@pytest.mark.parametrize("name", ["byte-level", "llama, first"])
def test_any_texts_give_the_ids_of_the_stock_processor(name: str, texts: list[str]) -> None:
    processor, history = PROCESSORS[name](), (Exchange(*texts[:2]), Exchange(*texts[2:4]))
    ids = builder_of(processor).prompt_ids(texts[4], IMAGE, history)
    assert ids == stock_ids(processor, history, texts[4])


@pytest.mark.parametrize(
    "later",
    [
        "messages[-1:]",
        "messages[:1] + messages[-1:]",
        "messages | reverse",
        "messages + messages",
        "raise_exception('one turn')",
    ],
)
def test_a_template_without_earlier_turns_is_refused_in_three_lines(later: str) -> None:
    tokenizer = PROCESSORS["byte-level"]().tokenizer
    loop = f"m in (messages if messages | length < 3 else {later})"
    template = LLAVA_TEMPLATE.replace("m in messages", loop)
    builder = builder_of(build_processor(tokenizer, template))
    assert builder.prompt_ids("Who?", ())
    with pytest.raises(
        DataError, match="its chat template cannot write the earlier turns"
    ) as caught:
        builder.prompt_ids("Who?", IMAGE, HISTORY)
    assert len(str(caught.value).splitlines()) == 3 and "'Who?'" in str(caught.value)


def test_a_template_that_changes_an_earlier_response_is_refused() -> None:
    tokenizer = PROCESSORS["byte-level"]().tokenizer
    shortens = "{{ p.text[:5] if messages | length > 2 and m.role == 'assistant' else p.text }}"
    template = LLAVA_TEMPLATE.replace("{{ p.text }}", shortens)
    with pytest.raises(DataError, match="earlier turns"):
        builder_of(build_processor(tokenizer, template)).prompt_ids("Who?", (), HISTORY)


def test_a_template_that_opens_the_response_in_another_way_is_refused() -> None:
    """The response would be encoded as it follows a prompt of one turn."""
    tokenizer = PROCESSORS["byte-level"]().tokenizer
    opening = "{{ 'Answer:' if messages | length > 2 else 'ASSISTANT:' }}"
    template = LLAVA_TEMPLATE.replace("{{ 'ASSISTANT:' if", "{{ opening if").replace(
        "{% for m", f"{{% set opening %}}{opening}{{% endset %}}{{% for m", 1
    )
    builder = builder_of(build_processor(tokenizer, template))
    assert builder.prompt_ids("Who?", ())
    with pytest.raises(DataError, match="in another way"):
        builder.prompt_ids("Who?", (), HISTORY)


def test_a_batch_carries_earlier_turns(tiny: Path) -> None:
    builder = builder_of(PROCESSORS["byte-level"]())
    records = [PromptRecord("a.png", "Who?"), PromptRecord("a.png", "Who?", history=HISTORY)]
    batch = prompt_batch(records, builder, tiny, max_tokens=500)
    plain, deep = (row.tolist() for row in batch.tokens.split(batch.spans.lengths.tolist()))
    assert deep == builder.prompt_ids("Who?", IMAGE, HISTORY) and len(deep) > len(plain)
    assert batch.histories == ((), HISTORY)
    swapped = batch.select(torch.tensor([1, 0]))
    assert swapped.histories == (HISTORY, ())
    assert type(batch).concatenate([batch, swapped]).histories == ((), HISTORY, HISTORY, ())
    again = reencode_prompts(swapped, builder)
    assert again.tokens.equal(swapped.tokens)


def test_earlier_turns_make_another_prompt() -> None:
    records = [PromptRecord("a.png", "Who?"), PromptRecord("a.png", "Who?", history=HISTORY)]
    records.append(PromptRecord("a.png", "Who?", history=HISTORY[:1]))
    assert len({*prompt_keys(records, repeats_share=True)}) == 3
    named = [PromptRecord(x.image_path, x.instruction, "7", history=x.history) for x in records]
    assert len({*prompt_keys(named, repeats_share=True)}) == 3


def test_earlier_turns_count_against_the_limit(tiny: Path) -> None:
    builder, root = builder_of(PROCESSORS["byte-level"]()), tiny
    limits = TokenLimits(len(builder.prompt_ids("Who?", IMAGE)))
    assert limits.problem(PromptRecord("a.png", "Who?"), builder, root) is None
    problem = limits.problem(PromptRecord("a.png", "Who?", history=HISTORY), builder, root)
    assert problem is not None and "the limit is" in problem.what


def test_records_keep_earlier_turns(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    records = [PromptRecord("a.png", "Who?", history=HISTORY), PromptRecord("a.png", "Who?")]
    write_records(path, records)
    assert read_records(path, PromptRecord) == records
    assert b"history" not in path.read_bytes().splitlines()[1]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ('[["a", "b"]]', "write the earlier turns as"),
        ('[{"instruction": "a"}]', "write the earlier turns as"),
        ('[{"instruction": "a", "response": "b", "image": "c"}]', "write the earlier turns as"),
        ('[{"instruction": "a", "response": " "}]', "is empty or holds a NUL"),
        ('[{"instruction": "a\\u0000", "response": "b"}]', "is empty or holds a NUL"),
        ('"a"', "write the earlier turns as"),
    ],
)
def test_another_form_is_refused(tmp_path: Path, history: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"image_path": "a.png", "instruction": "Who?", "history": {history}}}\n')
    with pytest.raises(DataError, match=message) as caught:
        read_records(path, PromptRecord)
    assert caught.value.where == f"{path}:1:history"


def test_a_transcript_without_earlier_turns_is_the_instruction() -> None:
    assert transcript((), "Who?") == "Who?"
    written = "What is it?\nResponse: A red star.\nInstruction: Who?"
    assert transcript(HISTORY[:1], "Who?") == written
