"""The earlier turns of a conversation stay before the exchange that a record holds."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.data.importers.datasets import DATASETS
from rlhf.data.importers.import_report import ImportReport
from rlhf.data.importers.importer import import_dataset
from rlhf.data.records import (
    DemonstrationRecord,
    PreferenceRecord,
    PromptRecord,
    Record,
    read_records,
)
from rlhf.errors import DataError
from rlhf.history import Exchange
from tests.data.importers.dataset_rows import (
    DEMONSTRATION_TABLE,
    EASYR1,
    LLAMA_FACTORY,
    LLAVA,
    LLAVA_RLHF,
    OPENRLHF_M,
    POVID,
    PROMPT_TABLE,
    SWIFT,
    TABLE,
    TRL,
    VERL,
    conversation,
    message,
    text_part,
)
from tests.support.foreign_datasets import RED, stored_path, write_rows

KINDS: dict[str, type[Record]] = {
    "preferences": PreferenceRecord,
    "prompts": PromptRecord,
    "demonstrations": DemonstrationRecord,
}
WHAT, SURE = Exchange("What?", "A cat."), Exchange("Sure?", "Yes.")
TURNS = ("<image>\nWhat?", "A cat.", "Sure?", "Yes.", "Why?", "It purrs.")


def imported(directory: Path, source: str, row: dict[str, Any]) -> tuple[list[Any], ImportReport]:
    path, out = write_rows(directory / "rows.json", [row]), directory / "out"
    report = import_dataset(source, [path], out)
    kind = DATASETS[source].kind
    return read_records(out / f"{kind}.jsonl", KINDS[kind]), report


def chat(*texts: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant") * 3
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def test_each_response_of_a_conversation_is_a_demonstration(tmp_path: Path) -> None:
    records, report = imported(tmp_path, "llava", {**LLAVA, "conversations": conversation(*TURNS)})
    image = stored_path(RED)
    assert records == [
        DemonstrationRecord(image, "What?", "A cat.", "7"),
        DemonstrationRecord(image, "Sure?", "Yes.", "7/2", history=(WHAT,)),
        DemonstrationRecord(image, "Why?", "It purrs.", "7/3", history=(WHAT, SURE)),
    ]
    assert (report.records, report.with_history, report.skipped) == (3, 2, {})
    assert report.notes == [
        "1 conversations gave 3 demonstrations, one for each response, with the turns before it; "
        "at most 3 from one"
    ]


def test_an_open_end_is_counted(tmp_path: Path) -> None:
    row = {**LLAVA, "conversations": conversation(*TURNS[:5])}
    records, report = imported(tmp_path, "llava", row)
    assert [record.response for record in records] == ["A cat.", "Yes."]
    assert report.skipped == {"no response": 1}


def test_a_conversation_is_one_prompt_if_its_end_is_open(tmp_path: Path) -> None:
    row = {**LLAVA, "conversations": conversation(*TURNS[:5])}
    records, _ = imported(tmp_path, "conversation_prompts", row)
    assert records == [PromptRecord(stored_path(RED), "Why?", "7", history=(WHAT, SURE))]


def test_each_user_turn_is_a_prompt_if_the_conversation_ends_with_a_response(
    tmp_path: Path,
) -> None:
    row = {**LLAVA, "conversations": conversation(*TURNS[:4])}
    records, report = imported(tmp_path, "conversation_prompts", row)
    assert records == [
        PromptRecord(stored_path(RED), "What?", "7"),
        PromptRecord(stored_path(RED), "Sure?", "7/2", history=(WHAT,)),
    ]
    assert report.skipped == {}


TRL_TURNS = (
    message("user", {"type": "image"}, text_part("What?"))
    + message("assistant", text_part("A cat."))
    + message("user", text_part("Sure?"))
)
YES, NO = (message("assistant", text_part(text)) for text in ("Yes.", "No."))
PAIRS: list[tuple[str, dict[str, Any]]] = [
    ("trl", {**TRL, "images": ["red.png"], "prompt": TRL_TURNS, "chosen": YES, "rejected": NO}),
    (
        "trl",
        {"images": ["red.png"], "chosen": TRL_TURNS + YES, "rejected": TRL_TURNS + NO},
    ),
    (
        "llama_factory",
        {
            **LLAMA_FACTORY,
            "conversations": conversation(*TURNS[:3]),
            "chosen": {"from": "gpt", "value": "Yes."},
            "rejected": {"from": "gpt", "value": "No."},
        },
    ),
    ("swift", {**SWIFT, "messages": chat(*TURNS[:4]), "rejected_response": "No."}),
    (
        "swift",
        {
            **SWIFT,
            "messages": chat(*TURNS[:4]),
            "rejected_messages": chat(*TURNS[:3], "No."),
            "rejected_response": None,
        },
    ),
    (
        "swift",
        {
            "images": ["red.png"],
            "query": "Sure?",
            "response": "Yes.",
            "rejected_response": "No.",
            "history": [["<image>What?", "A cat."]],
        },
    ),
    (
        "llava_rlhf",
        {
            **LLAVA_RLHF,
            "conversations": conversation(*TURNS[:3]),
            "output_1": {"from": "llava", "value": "Yes."},
            "output_2": {"from": "llava", "value": "No."},
        },
    ),
    (
        "povid",
        {
            **POVID,
            "conversations": conversation(*TURNS[:4]),
            "rejected_conversations": conversation(*TURNS[:3], "No."),
        },
    ),
    (
        "table",
        {
            **TABLE,
            "question": "Sure?",
            "chosen": "Yes.",
            "rejected": "No.",
            "history": '[["What?", "A cat."]]',
        },
    ),
    (
        "table",
        {
            **TABLE,
            "question": "Sure?",
            "chosen": "Yes.",
            "rejected": "No.",
            "history": [{"instruction": "What?", "response": "A cat."}],
        },
    ),
]


@pytest.mark.parametrize(("source", "row"), PAIRS)
def test_a_pair_keeps_the_turns_before_it(tmp_path: Path, source: str, row: dict[str, Any]) -> None:
    (record,), report = imported(tmp_path, source, row)
    assert (record.instruction, record.history) == ("Sure?", (WHAT,))
    preferred = getattr(record, record.preference)
    assert (preferred, {record.response_a, record.response_b}) == ("Yes.", {"Yes.", "No."})
    assert (report.skipped, report.with_history) == ({}, 1)


MESSAGE = (
    '[{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."},'
)
PROMPTS: list[tuple[str, dict[str, Any]]] = [
    ("verl", {**VERL, "images": ["red.png"], "prompt": chat(*TURNS[:3])}),
    (
        "openrlhf_m",
        {
            **OPENRLHF_M,
            "message": f'{MESSAGE} {{"role": "user", "content": "Sure?"}}]',
            "image": "red.png",
        },
    ),
    (
        "easyr1",
        {**EASYR1, "images": ["red.png"], "problem": "Sure?", "history": [["What?", "A cat."]]},
    ),
    ("prompt_table", {**PROMPT_TABLE, "prompt": "Sure?", "history": [["What?", "A cat."]]}),
    (
        "demonstration_table",
        {**DEMONSTRATION_TABLE, "prompt": "Sure?", "history": [["What?", "A cat."]]},
    ),
]


@pytest.mark.parametrize(("source", "row"), PROMPTS)
def test_a_prompt_keeps_the_turns_before_it(
    tmp_path: Path, source: str, row: dict[str, Any]
) -> None:
    (record,), _ = imported(tmp_path, source, row)
    assert (record.instruction, record.history) == ("Sure?", (WHAT,))


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (conversation("What?", "A cat.", "<image>Sure?", "Yes."), "image in a later turn"),
        (conversation("<image>What?", "A cat.", "<image>Sure?", "Yes."), "image in a later turn"),
        (conversation(*TURNS[:2]) * 2, "image in a later turn"),
        (conversation(*TURNS[:3]) + conversation("Why?"), "user and assistant do not take turns"),
        (conversation(*TURNS[:2])[::-1], "user and assistant do not take turns"),
        ([], "user and assistant do not take turns"),
    ],
)
def test_a_conversation_of_another_form_is_counted(
    tmp_path: Path, turns: list[dict[str, str]], reason: str
) -> None:
    with pytest.raises(DataError) as caught:
        imported(tmp_path, "llava", {**LLAVA, "conversations": turns})
    assert caught.value.what == f"no row is usable: 1 {reason}"


def test_a_blank_earlier_response_leaves_the_later_turns_out(tmp_path: Path) -> None:
    row = {
        **LLAVA,
        "conversations": conversation("<image>What?", "A cat.", "Sure?", " ", "Why?", "x"),
    }
    records, report = imported(tmp_path, "llava", row)
    assert [record.instruction for record in records] == ["What?"]
    assert report.skipped == {"blank text": 2}
