"""Left-out rows are counted by reason and named by place; labels and sides are never guessed."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.data.importers.fields import Skip
from rlhf.data.importers.importer import import_dataset
from rlhf.data.importers.labels import parse_label
from rlhf.errors import DataError, UsageError
from tests.data.importers.dataset_rows import (
    ALIGN_ANYTHING,
    DEMONSTRATION_TABLE,
    LABEL_STUDIO,
    LLAMA_FACTORY,
    LLAVA,
    LLAVA_RLHF,
    MM_RLHF,
    MULTIMODAL_REWARDBENCH,
    OPENRLHF_M,
    POVID,
    PROMPT_TABLE,
    SWIFT,
    TABLE,
    TRL,
    VERL,
    VL_REWARDBENCH,
    VLFEEDBACK,
    conversation,
    message,
    text_part,
)
from tests.support.foreign_datasets import (
    BLUE,
    RED,
    Rows,
    embedded,
    imported,
    stored_path,
    with_first_response,
    write_rows,
)

GOOD: Rows = [{**TABLE, "question": "Good?"}]
QUESTION, ANSWER = message("user", text_part("What?")), message("assistant", text_part("A cat."))
SYSTEM = [{"from": "system", "value": "Be brief."}]
TWICE = [{"type": "image"}, {"type": "image"}]
SKIPPED: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    # source, row, its changes, reason, column
    ("table", TABLE, {"image_path": None}, "no image", "image_path"),
    ("table", TABLE, {"image_path": ["red.png", "blue.png"]}, "several images", "image_path"),
    ("table", TABLE, {"image_path": "none.png"}, "missing or bad image", "image"),
    ("table", TABLE, {"question": None}, "missing field", "instruction"),
    ("table", TABLE, {"chosen": None}, "missing field", "chosen"),
    ("table", TABLE, {"rejected": 3}, "not a text", "rejected"),
    ("table", TABLE, {"question": " \n"}, "blank text", "instruction"),
    ("table", TABLE, {"chosen": ""}, "blank text", "first response"),
    ("table", TABLE, {"rejected": "a\0b"}, "NUL in a text", "second response"),
    ("table", TABLE, {"rejected": " A cat.\n"}, "equal responses", ""),
    ("mm_rlhf", MM_RLHF, {"video": "a.mp4"}, "video row", "video"),
    ("mm_rlhf", MM_RLHF, {"prompt": "<image><image>Same?"}, "several images", "instruction"),
    ("table", TABLE, {"question": "<image>\n<image>\nSame?"}, "several images", "instruction"),
    ("table", TABLE, {"question": "<image> Same? <image>"}, "several images", "instruction"),
    ("mm_rlhf", MM_RLHF, {"prompt": "Is <image> red?"}, "image inside the text", "instruction"),
    ("table", TABLE, {"system": "Be brief."}, "system turn", "system"),
    ("table", TABLE, {"history": [["a"]]}, "unexpected form", "history"),
    ("table", TABLE, {"history": [["a", ""]]}, "blank text", "earlier turn 2"),
    ("table", TABLE, {"history": [["a", "b"]], "question": "<image>What?"},
     "image in a later turn", "instruction"),
    ("table", TABLE, {"videos": ["a.mp4"]}, "video row", "videos"),
    ("table", TABLE, {"audios": ["a.wav"]}, "audio row", "audios"),
    ("table", TABLE, {"tools": "[]"}, "tools", "tools"),
    ("table", TABLE, {"input": 3}, "not a text", "input"),
    ("povid", POVID, {"conversations": conversation(*"abcd")}, "different prompts",
     "rejected_conversations"),
    ("llava_rlhf", LLAVA_RLHF, {"conversations": conversation(*"ab") * 2 + SYSTEM}, "system turn",
     "conversations"),
    ("povid", POVID, {"conversations": "What?"}, "unexpected form", "conversations"),
    ("povid", POVID, {"rejected_conversations": None}, "missing field", "rejected_conversations"),
    ("llava_rlhf", LLAVA_RLHF, {"preference": 0}, "unknown label", "preference"),
    ("llava_rlhf", LLAVA_RLHF, {"preference": None}, "unknown label", "preference"),
    ("trl", TRL, {"images": []}, "no image", "images"),
    ("trl", TRL, {"images": ["red.png", "blue.png"]}, "several images", "images"),
    ("trl", TRL, {"prompt": TRL["prompt"] * 2}, "user and assistant do not take turns",
     "prompt"),
    ("trl", TRL, {"prompt": QUESTION + ANSWER + TRL["prompt"]}, "image in a later turn", "prompt"),
    ("trl", TRL, {"prompt": QUESTION + ANSWER}, "the conversation ends with a response", "prompt"),
    ("trl", TRL, {"chosen": TRL["prompt"]}, "not one message", "chosen"),
    ("trl", TRL, {"prompt": [{"role": "user", "content": TWICE}]}, "several images", "images"),
    ("trl", TRL, {"prompt": [{"role": "user", "content": TWICE[:1]}]}, "blank text", "instruction"),
    ("trl", TRL, {"prompt": [{"role": "user", "content": [{"type": "video"}]}]},
     "unknown part of a message", "prompt"),
    ("trl", TRL, {"prompt": None}, "user and assistant do not take turns", "chosen"),
    ("trl", TRL, {"prompt": None, "chosen": QUESTION + TRL["chosen"],
                  "rejected": TRL["rejected"]}, "different prompts", "chosen"),
    ("llama_factory", LLAMA_FACTORY, {"conversations": conversation("a", "b")},
     "the conversation ends with a response", "conversations"),
    ("llama_factory", LLAMA_FACTORY, {"conversations": conversation("a", "b", "<image>c")},
     "image in a later turn", "conversations"),
    ("llama_factory", LLAMA_FACTORY, {"conversations": SYSTEM + conversation("a")}, "system turn",
     "conversations"),
    ("llama_factory", LLAMA_FACTORY, {"images": ["red.png", "blue.png"]}, "several images",
     "images"),
    ("llama_factory", LLAMA_FACTORY, {"objects": {"bbox": [[1, 2]]}}, "boxes of objects",
     "objects"),
    ("swift", SWIFT, {"messages": SWIFT["messages"][:1]},
     "user and assistant do not take turns", "messages"),
    ("swift", SWIFT, {"rejected_images": ["blue.png"]}, "different images", "rejected_images"),
    ("swift", SWIFT, {"rejected_messages": message("user", text_part("Why?")) + ANSWER},
     "different prompts", "messages"),
    ("align_anything", ALIGN_ANYTHING, {"overall_response": 3}, "unknown label", "preference"),
    ("multimodal_rewardbench", MULTIMODAL_REWARDBENCH, {"Better": "Tie"}, "unknown label",
     "Better"),
    ("verl", VERL, {"prompt": QUESTION + ANSWER, "images": ["red.png"]},
     "the conversation ends with a response", "prompt"),
    ("openrlhf_m", OPENRLHF_M, {"message": "What?"}, "unexpected form", "message"),
    ("llava", LLAVA, {"conversations": conversation("a")}, "no response", "conversations"),
    ("llava", LLAVA, {"conversations": [{"from": "observation", "value": "x"}]}, "tool turn",
     "conversations"),
    ("demonstration_table", DEMONSTRATION_TABLE, {"response": " "}, "blank text", "response"),
    ("prompt_table", PROMPT_TABLE, {"prompt": ""}, "blank text", "instruction"),
    ("vlfeedback", VLFEEDBACK, {"completions": []}, "fewer than two responses", "completions"),
    ("vlfeedback", VLFEEDBACK, {"completions": {"response": ["a"], "model": []}}, "unexpected form",
     "completions"),
    ("label_studio", LABEL_STUDIO, {"annotations": []}, "no annotation", "annotations"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "row", "changes", "reason", "column"), SKIPPED)
def test_a_row_left_out_is_counted_and_named(
    tmp_path: Path, source: str, row: Any, changes: dict[str, Any], reason: str, column: str
) -> None:
    changed = {**row, **changes}
    if source == "trl" and "images" not in changes:
        changed["images"] = ["red.png"]
    path = write_rows(tmp_path / "rows.json", [{"annotations": 0, **row, **changed}])
    with pytest.raises(DataError) as caught:
        import_dataset(source, [path], tmp_path / "out")
    assert caught.value.what == f"no row is usable: 1 {reason}"
    assert caught.value.where.startswith(f"{path}:1:{column + ':' if column else ''} {reason}")
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_one_lost_pair_loses_no_other(tmp_path: Path) -> None:
    rows = [{**TABLE, "chosen": ""}, *GOOD, {**TABLE, "image_path": "/etc/passwd"}, TABLE, TABLE]
    result, report = imported(tmp_path, "table", rows)
    assert [record.instruction for record in result] == ["Good?", "What?"]
    assert report.skipped == {"blank text": 1, "missing or bad image": 1, "duplicate row": 1}
    assert [line.split("rows.json")[1] for line in report.problems] == [
        ":1:first response: blank text",
        ":3:image: missing or bad image: image_path: it leads out of the data directory.",
        ":5: duplicate row",
    ]


def test_only_the_first_problems_are_kept_all_are_counted(tmp_path: Path) -> None:
    rows = [{**TABLE, "chosen": ""}] * 30 + GOOD
    _, report = imported(tmp_path, "table", rows)
    assert (len(report.problems), report.skipped["blank text"]) == (20, 30)


@pytest.mark.parametrize(
    ("label", "label_encoding", "preference"),
    [(x, "", "response_a") for x in ("response_a", "a", "A", "left")]
    + [(x, "0/1", "response_b") for x in ("response_b", "b", "B", "right", 1, "1", 1.0)]
    + [(x, "1/2", "response_a") for x in (1, "1", 1.0, "a")]
    + [(2, "1/2", "response_b"), (0, "0/1", "response_a"), ("0", "0/1", "response_a")]
    + [("tie", coding, "tie") for coding in ("", "1/2", "0/1")],
)
def test_labels_as_written(label: object, label_encoding: str, preference: str) -> None:
    assert parse_label(label, label_encoding) == preference


@pytest.mark.parametrize("label_encoding", ["", "1/2", "0/1"])
@pytest.mark.parametrize("label", [None, "", "Tie", "c", "first", True, False, 0.5, float("nan")])
def test_other_labels_are_no_win(label: object, label_encoding: str) -> None:
    with pytest.raises(Skip, match="unknown label"):
        parse_label(label, label_encoding)


@pytest.mark.parametrize(
    ("label", "label_encoding"), [(0, "1/2"), (3, "1/2"), (-1, "0/1"), (3, "0/1")]
)
def test_numbers_outside_the_encoding_are_no_win(label: object, label_encoding: str) -> None:
    with pytest.raises(Skip, match="unknown label"):
        parse_label(label, label_encoding)


LABELLED = {"image": "red.png", "prompt": "What?", "response_a": "A cat.", "response_b": "A dog."}


@pytest.mark.parametrize(("label", "label_encoding"), [(1, ""), ("0", ""), (2, "0/1")])
def test_numbers_need_an_encoding(tmp_path: Path, label: object, label_encoding: str) -> None:
    with pytest.raises(UsageError) as caught:
        imported(
            tmp_path,
            "table",
            [*GOOD, {**LABELLED, "preference": label}],
            label_encoding=label_encoding,
        )
    assert caught.value.where.endswith("rows.json:2:preference")
    assert "data.label_encoding" in caught.value.fix


def test_the_encoding_decides_what_1_means(tmp_path: Path) -> None:
    (first,), _ = imported(tmp_path, "table", [{**LABELLED, "preference": 1}], label_encoding="1/2")
    (second,), _ = imported(
        tmp_path, "table", [{**LABELLED, "preference": 1}], label_encoding="0/1"
    )
    assert (first.preference, second.preference) == ("response_a", "response_b")
    assert (first.response_a, second.response_a) == ("A cat.", "A cat.")


@pytest.mark.parametrize("label", [None, 0, ""])
def test_a_pair_without_a_label_is_left_out(tmp_path: Path, label: object) -> None:
    rows = [*GOOD, {**LABELLED, "preference": label}]
    result, report = imported(tmp_path, "table", rows, label_encoding="1/2")
    assert (len(result), report.skipped) == (1, {"unknown label": 1})


def rows_of_questions(*names: str) -> Rows:
    return [{**TABLE, "question": name} for name in names]


NAMES = [f"What is {n}?" for n in range(200)]


def test_sides_are_drawn_row_by_row_from_the_seed(tmp_path: Path) -> None:
    result, report = imported(tmp_path, "table", rows_of_questions(*NAMES))
    assert all(
        with_first_response(record, "A cat.").preference == "response_a" for record in result
    )
    assert 70 <= report.labels["response_a"] <= 130
    assert report.labels.total() == 200
    subset, _ = imported(tmp_path, "table", rows_of_questions(*NAMES[::-3]))
    assert {record.instruction: record for record in result}.items() >= {
        record.instruction: record for record in subset
    }.items()
    with_other_seed, _ = imported(tmp_path, "table", rows_of_questions(*NAMES), seed=1)
    changed = sum(
        a.preference != b.preference for a, b in zip(result, with_other_seed, strict=True)
    )
    assert 70 <= changed <= 130


def test_what_describes_a_response_goes_with_it(tmp_path: Path) -> None:
    rows = [{**VL_REWARDBENCH, "image": "red.png", "query": name} for name in NAMES[:20]]
    result, _ = imported(tmp_path, "vl_rewardbench", rows)
    assert {record.preference for record in result} == {"response_a", "response_b"}
    assert {record.meta[record.preference]["model"] for record in result} == {"x"}


def test_the_same_responses_to_other_images_change_sides_too(tmp_path: Path) -> None:
    rows = [{**TABLE, "image_path": embedded(f"BM{n}".encode() + RED)} for n in range(4)] + [
        {**TABLE, "image_path": embedded(RED + bytes([n]))} for n in range(64)
    ]
    result, report = imported(tmp_path, "table", rows, "parquet")
    assert report.skipped == {"missing or bad image": 4}
    assert 16 <= report.labels["response_a"] <= 48


def test_sides_a_person_saw_are_kept(tmp_path: Path) -> None:
    rows = [{**LABELLED, "prompt": name, "preference": "b"} for name in NAMES[:20]]
    result, _ = imported(tmp_path, "table", rows)
    assert {(record.response_a, record.preference) for record in result} == {
        ("A cat.", "response_b")
    }


def test_a_kept_tie_is_a_tie(tmp_path: Path) -> None:
    rows = [
        {**LABELLED, "preference": "tie"},
        {**LABELLED, "response_b": "A cat.", "preference": "tie"},
    ]
    result, report = imported(tmp_path, "table", rows)
    assert [record.preference for record in result] == ["tie", "tie"]
    assert report.labels == {"tie": 2}
    assert stored_path(BLUE) not in {record.image_path for record in result}
