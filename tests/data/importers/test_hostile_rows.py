"""No row makes an importer fail: what has another form is skipped, item by item."""

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from rlhf.data.importers.conversion import check_texts, label_of, remove_image_marker, to_record
from rlhf.data.importers.datasets import DATASETS
from rlhf.data.importers.fields import Skip, TrackedRow, refuse_columns
from tests.data.importers.dataset_rows import CASES, FOUR, OTHER_CASES, VLFEEDBACK

ROWS = {source: row for source, _, row, _ in (*CASES, *OTHER_CASES)}
ROWS["vlfeedback"] = {**VLFEEDBACK, "completions": FOUR}
HOSTILE: tuple[Any, ...] = (
    *(None, True, 3, -1, 0.5, float("nan"), "", "x", "[", '{"selected": 3}', b"x"),
    *([], {}, [None], [[]], [{}], [3], ["x", "y"], {"x": 1}, {"selected": 3}, [{"selected": []}]),
    *([{"role": 3, "content": 3}], [{"role": "user", "content": [3]}], [{"from": "human"}]),
    [{"role": "user", "content": [{"type": "text", "text": 3}]}],
    [{"role": "user", "content": [{"type": []}]}],
    [{"role": "assistant", "content": [{"type": "text"}]}],
    [{"role": "user", "content": [{"type": "image", "image": 3}]}],
    *({"role": "assistant", "content": None}, {"bytes": 3, "path": []}, "a" * 10_000),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every entry of a row, at any depth, as its container and its key."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(entries):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def convert(source: str, row: dict[str, Any]) -> int:
    """Convert a row to records as an import does, without its image; return how many it gives."""
    records = 0
    try:
        tracked = TrackedRow(row, set())
        refuse_columns(tracked)
        for item in DATASETS[source].items(tracked):
            if not isinstance(item, Skip):
                label = label_of(item, DATASETS[source].label_encoding or "1/2")
                remove_image_marker(item.instruction, marks_images=True)
                check_texts(item, label)
                msgspec.json.encode(to_record(item, "a.png", source, label=label))
                records += 1
    except Skip:
        pass
    return records


@pytest.mark.parametrize("source", DATASETS)
def test_hostile_values_are_skipped(source: str) -> None:
    assert convert(source, ROWS[source]) >= 1
    for number in range(len(list(places(ROWS[source])))):
        for value in HOSTILE:
            row = copy.deepcopy(ROWS[source])
            container, key = list(places(row))[number]
            container[key] = copy.deepcopy(value)
            convert(source, row)
