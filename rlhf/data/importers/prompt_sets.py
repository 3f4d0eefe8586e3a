"""Convert rows of prompt datasets, as trainers with a verifiable reward have them, to prompts."""

from collections.abc import Mapping
from typing import Any

import msgspec

from rlhf.data.importers.fields import IMAGE_COLUMNS, Row, Skip, present, read_id, read_text
from rlhf.data.importers.items import ImportedPrompt, ItemIterator
from rlhf.data.importers.turns import Turn, image_of, read_exchange, read_turns


def easyr1(row: Row) -> ItemIterator:
    """Read EasyR1's format, e.g. hiyouga/geometry3k: images, problem, answer."""
    turn = Turn("user", read_text(row, "problem"))
    yield _prompt(row, turn, _answer(row, "answer"))


def verl(row: Row) -> ItemIterator:
    """Read verl's format, e.g. its geo3k: prompt, images, data_source, reward_model.

    The ground truth and the data source stay in the record's meta, for a scorer.
    """
    turn = _only_turn(read_turns(row, "prompt"), "prompt")
    reward_model = row.get("reward_model")
    truth = reward_model if isinstance(reward_model, Mapping) else {}
    meta = {**_answer(truth, "ground_truth"), **_answer(row, "data_source")}
    extra = row.get("extra_info")
    yield _prompt(row, turn, meta, read_id(extra, "index") if isinstance(extra, Mapping) else "")


def openrlhf_m(row: Row) -> ItemIterator:
    """Read OpenRLHF-M's format: a conversation as JSON text in `message` or `prompt`, answer."""
    name = present(row, "message", "prompt")
    try:
        turns = msgspec.json.decode(read_text(row, name), type=list[Any])
    except msgspec.MsgspecError as error:
        raise Skip("unexpected form", name, error) from error
    turn = _only_turn(read_turns({name: turns}, name), name)
    yield _prompt(row, turn, _answer(row, "answer"), read_id(row, "id"))


def _only_turn(turns: list[Turn], name: str) -> Turn:
    exchange = read_exchange(turns, name)
    if exchange.response is not None:
        raise Skip("the conversation ends with a response", name)
    return exchange.turn


def _prompt(row: Row, turn: Turn, meta: Mapping[str, Any], id: str = "") -> ImportedPrompt:
    image = image_of(row, turn, *IMAGE_COLUMNS)
    return ImportedPrompt(
        image=image, instruction=turn.text, id=id or read_id(row, "id"), meta=meta
    )


def _answer(row: Row, name: str) -> dict[str, Any]:
    """Return a column as an entry of a record's meta; none if the row has no value."""
    value = row.get(name)
    return {} if value is None or isinstance(value, bytes) else {name: value}
