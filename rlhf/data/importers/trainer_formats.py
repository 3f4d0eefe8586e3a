"""Convert rows in the data formats of other trainers: trl, LLaMA-Factory and ms-swift."""

from collections.abc import Iterator

from rlhf.data.importers.fields import IMAGE_COLUMNS, Row, Skip, present, read_id, read_text
from rlhf.data.importers.items import (
    ImportedDemonstration,
    ImportedPair,
    ImportedPrompt,
    ItemIterator,
)
from rlhf.data.importers.turns import (
    Turn,
    image_of,
    read_exchange,
    read_message,
    read_pair,
    read_turns,
)

_TURN_COLUMNS = ("conversations", "messages")


def trl(row: Row) -> ItemIterator:
    """Read trl's preference format, e.g. trl-lib/rlaif-v.

    The prompt has a column of its own, or is what the conversations `chosen` and `rejected` begin
    with (trl's implicit prompt).
    """
    if row.get("prompt") is None:
        chosen, rejected = read_turns(row, "chosen"), read_turns(row, "rejected")
        turn, first, second = read_pair(chosen, rejected, "chosen")
    else:
        first, second = (read_message(row, name, "assistant") for name in ("chosen", "rejected"))
        text = read_message(row, "prompt", "user")
        is_text = isinstance(row["prompt"], str)
        turn = Turn("user", text) if is_text else read_turns(row, "prompt")[0]
    image = image_of(row, turn, "images", "image")
    yield ImportedPair(image=image, instruction=turn.text, first=first, second=second)


def llama_factory(row: Row) -> ItemIterator:
    """Read LLaMA-Factory's sharegpt preference format: conversations, chosen, rejected, images."""
    turns, name = _conversation(row)
    exchange = read_exchange(turns, name)
    if exchange.response is not None:
        raise Skip("the conversation ends with a response", name)
    yield ImportedPair(
        image=image_of(row, exchange.turn, *IMAGE_COLUMNS),
        instruction=exchange.turn.text,
        first=read_message(row, "chosen", "assistant"),
        second=read_message(row, "rejected", "assistant"),
        id=read_id(row, "id"),
    )


def swift(row: Row) -> ItemIterator:
    """Read ms-swift's preference format: the last response of `messages` is the chosen one.

    The rejected response is `rejected_response`, or the last of `rejected_messages`; `query` and
    `response` may stand in place of `messages`.
    """
    chosen = _swift_turns(row)
    turn, first, second = read_pair(chosen, _swift_rejected(row, chosen), "messages")
    if row.get("rejected_images") and row.get("rejected_images") != row.get("images"):
        raise Skip("different images", "rejected_images")
    image = image_of(row, turn, *IMAGE_COLUMNS)
    yield ImportedPair(
        image=image, instruction=turn.text, first=first, second=second, id=read_id(row, "id")
    )


def llava(row: Row) -> ItemIterator:
    """Read LLaVA's `conversations`, or `messages`: the first response is a demonstration.

    A record's prompt is one user turn, so what is asked after it is skipped, turn by turn.
    """
    turns, name = _conversation(row)
    first = read_exchange(turns[:2], name)
    if first.response is None:
        raise Skip("no response", name)
    yield ImportedDemonstration(
        image=image_of(row, first.turn, *IMAGE_COLUMNS),
        instruction=first.turn.text,
        response=first.response,
        id=read_id(row, "id"),
    )
    yield from _later_turns(turns, name)


def conversation_prompts(row: Row) -> ItemIterator:
    """Read the first user turn of `messages` or `conversations`, as ms-swift has them for PPO."""
    turns, name = _conversation(row)
    turn = read_exchange(turns[:1], name).turn
    image = image_of(row, turn, *IMAGE_COLUMNS)
    yield ImportedPrompt(image=image, instruction=turn.text, id=read_id(row, "id"))
    yield from _later_turns(turns, name)


def _conversation(row: Row) -> tuple[list[Turn], str]:
    """Read the column that holds the conversation; return its turns and its name."""
    if row.get("objects"):
        raise Skip("boxes of objects", "objects")
    name = present(row, *_TURN_COLUMNS)
    return read_turns(row, name), name


def _later_turns(turns: list[Turn], name: str) -> Iterator[Skip]:
    """Yield a Skip for each user turn after the first, which needs the turns before it."""
    questions = (turn.text for turn in turns[1:] if turn.role == "user")
    yield from (Skip("later turn of a conversation", name, text) for text in questions)


def _swift_turns(row: Row) -> list[Turn]:
    if row.get("messages") is not None:
        return _conversation(row)[0]
    return [Turn("user", read_text(row, "query")), Turn("assistant", read_text(row, "response"))]


def _swift_rejected(row: Row, chosen: list[Turn]) -> list[Turn]:
    """Return the rejected conversation: its own, or the chosen one with another last response."""
    if row.get("rejected_messages") is not None:
        return read_turns(row, "rejected_messages")
    return [*chosen[:-1], Turn("assistant", read_text(row, "rejected_response"))]
