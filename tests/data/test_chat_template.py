"""The chat template says which blanks a text keeps and which token ends a response."""

from pathlib import Path

import pytest
from transformers import AddedToken

from rlhf.data.chat_prompts import PromptBuilder
from rlhf.data.image_token_counts import FixedTokenCounter
from rlhf.errors import UsageError
from rlhf.models.fingerprints import same_encoding
from rlhf.tracking.console import say_once
from tests.support.chat_templates import FORMS, processor_of, trained
from tests.support.processors import CHAT_ML, LLAVA_TEMPLATE, build_processor

IMAGE = [Path("not opened.png")]


def builder_of(processor: object) -> PromptBuilder:
    return PromptBuilder(processor, FixedTokenCounter(1))


@pytest.mark.parametrize("name", FORMS)
def test_prompt_and_response_are_what_the_template_writes(name: str) -> None:
    form = FORMS[name]
    builder = builder_of(processor_of(form))
    ids = builder.prompt_ids(" hi ", IMAGE) + builder.response_ids(" yes ")
    assert builder.tokenizer.decode(ids) == form.written
    assert ids == builder.tokenizer(form.written).input_ids
    assert ids[-1] == builder.end_of_turn_id == builder.tokenizer.convert_tokens_to_ids(form.end)
    assert builder.response_ids("") == [builder.end_of_turn_id]
    assert builder.decode(builder.response_ids("yes")) == "yes"


@pytest.mark.parametrize("name", [name for name in FORMS if "language" not in name])
def test_the_conversation_of_the_stock_processor_begins_the_same(name: str) -> None:
    form = FORMS[name]
    processor = processor_of(form)
    parts = [{"type": "image"}, {"type": "text", "text": " hi "}]
    turns = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": " yes "}]},
    ]
    stock = processor.apply_chat_template(turns, tokenize=False)
    assert stock.startswith(form.written.removesuffix(form.end).rstrip("\n"))


def test_a_plain_end_token_is_not_part_of_the_decoded_text() -> None:
    """Some tokenizers do not call the end of a turn special."""
    tokenizer = trained(eos="<|endoftext|>")
    tokenizer.add_tokens([AddedToken(x, special=False) for x in ("<|im_start|>", "<|im_end|>")])
    builder = builder_of(build_processor(tokenizer, CHAT_ML))
    assert builder.response_ids("yes")[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert builder.decode(builder.response_ids("yes")) == "yes"


def test_another_end_is_another_encoding() -> None:
    first, second = (builder_of(processor_of(FORMS["phi-3"])) for _ in range(2))
    assert same_encoding(first, second)
    second.end_of_turn_id = second.tokenizer.eos_token_id
    assert not same_encoding(first, second)


def test_an_end_in_words_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    say_once.cache_clear()
    template = LLAVA_TEMPLATE.replace("{{ p.text }} {% endfor %}", "{{ p.text }}{% endfor %}\n### ")
    for _ in range(2):
        builder = builder_of(build_processor(trained(eos="</s>"), template))
        assert builder.response_ids("yes")[-1] == builder.tokenizer.eos_token_id
    said = capsys.readouterr().out
    assert said.count("writes '###' after a response") == 1 and "end with </s>" in said


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (" | trim", "<image>\nhi ASSISTANT:"),
        (".strip()", "<image>\nhi ASSISTANT:"),
        (".lstrip()", "<image>\nhi  ASSISTANT:"),
        (".rstrip()", "<image>\n hi ASSISTANT:"),
        (" | string", "<image>\n hi  ASSISTANT:"),
    ],
)
def test_blanks_are_removed_as_the_template_removes_them(method: str, expected: str) -> None:
    template = LLAVA_TEMPLATE.replace("p.text }}", f"p.text{method} }}}}")
    builder = builder_of(build_processor(trained(eos="</s>"), template))
    assert builder.tokenizer.decode(builder.prompt_ids(" hi ", IMAGE)) == f"USER: {expected}"


@pytest.mark.parametrize(
    "change",
    [
        "| upper",
        "| lower",
        "| title",
        "| capitalize",
        "| e",
        "| tojson",
        "| truncate",
        "| wordwrap",
        "| indent",
        "| striptags",
        "| replace('\n', ' ')",
        "| replace('  ', ' ')",
        "| reverse",
        "| first",
        ".strip('\n')",
        ".strip(' ')",
        ".lstrip('\n')",
        ".rstrip(' ')",
        ".split()[0]",
        "[:40]",
    ],
)
def test_a_template_that_changes_a_text_is_refused(change: str) -> None:
    template = LLAVA_TEMPLATE.replace("p.text }}", f"p.text {change} }}}}")
    with pytest.raises(UsageError, match="chat template") as caught:
        builder_of(build_processor(trained(eos="</s>"), template))
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    "broken",
    ["{{ 1 / 0 }}", "{{ messages[7].content }}", "{{ raise_exception('no') }}", "{% if %}", "{{"],
)
def test_a_template_that_fails_is_refused_in_three_lines(broken: str) -> None:
    with pytest.raises(UsageError, match="the chat template fails") as caught:
        builder_of(build_processor(trained(eos="</s>"), LLAVA_TEMPLATE + broken))
    assert len(str(caught.value).splitlines()) == 3
