"""Convert rows of prompt datasets, as trainers with a verifiable reward have them, to prompts."""

from collections.abc import Mapping
from typing import Any

import msgspec

from rlhf.data.importers.conversations import read_open_conversation
from rlhf.data.importers.fields import IMAGE_COLUMNS, Row, Skip, present, read_id, read_text
from rlhf.data.importers.items import ImportedPrompt, ItemIterator
from rlhf.data.importers.json_values import decode_values
from rlhf.data.importers.turns import Turn, image_of, read_turns


def easyr1(row: Row) -> ItemIterator:
    """Read EasyR1's format, e.g. hiyouga/geometry3k: images, problem, answer."""
    turns = [Turn("user", read_text(row, "problem"))]
    yield _prompt(row, turns, "problem", _answer(row, "answer"))


def verl(row: Row) -> ItemIterator:
    """Read verl's format, e.g. its geo3k: prompt, images, data_source, reward_model.

    The ground truth and the data source stay in the record's meta, for a scorer.
    """
    reward_model = row.get("reward_model")
    truth = reward_model if isinstance(reward_model, Mapping) else {}
    meta = {**_answer(truth, "ground_truth"), **_answer(row, "data_source")}
    extra = row.get("extra_info")
    id = read_id(extra, "index") if isinstance(extra, Mapping) else ""
    yield _prompt(row, read_turns(row, "prompt"), "prompt", meta, id)


def openrlhf_m(row: Row) -> ItemIterator:
    """Read OpenRLHF-M's format: a conversation as JSON text in `message` or `prompt`, answer."""
    name = present(row, "message", "prompt")
    try:
        turns = decode_values(read_text(row, name), list[Any])
    except msgspec.MsgspecError as error:
        raise Skip("unexpected form", name, error) from error
    yield _prompt(row, read_turns({name: turns}, name), name, _answer(row, "answer"))


def _prompt(
    row: Row, turns: list[Turn], name: str, meta: Mapping[str, Any], id: str = ""
) -> ImportedPrompt:
    prompt = read_open_conversation(turns, name)
    return ImportedPrompt(
        image=image_of(row, prompt.first, *IMAGE_COLUMNS),
        instruction=prompt.instruction,
        history=prompt.history,
        id=id or read_id(row, "id"),
        meta=meta,
    )


def _answer(row: Row, name: str) -> dict[str, Any]:
    """Return a column as an entry of a record's meta; none if the row has no value."""
    value = row.get(name)
    return {} if value is None or isinstance(value, bytes) else {name: value}
