"""Convert rows in the data formats of other trainers: trl, LLaMA-Factory and ms-swift."""

from collections.abc import Iterator
from typing import Any

from rlhf.data.importers.conversations import (
    Conversation,
    read_conversation,
    read_open_conversation,
    read_pair,
)
from rlhf.data.importers.fields import IMAGE_COLUMNS, Row, Skip, present, read_id, read_text
from rlhf.data.importers.items import (
    ImportedDemonstration,
    ImportedPair,
    ImportedPrompt,
    ItemIterator,
)
from rlhf.data.importers.turns import Turn, image_of, read_message, read_turns
from rlhf.history import Exchange

_TURN_COLUMNS = ("conversations", "messages")


def trl(row: Row) -> ItemIterator:
    """Read trl's preference format, e.g. trl-lib/rlaif-v.

    The prompt has a column of its own, or is what the conversations `chosen` and `rejected` begin
    with (trl's implicit prompt).
    """
    if row.get("prompt") is None:
        chosen, rejected = read_turns(row, "chosen"), read_turns(row, "rejected")
        prompt, first, second = read_pair(chosen, rejected, "chosen")
    else:
        first, second = (read_message(row, name, "assistant") for name in ("chosen", "rejected"))
        is_text = isinstance(row["prompt"], str)
        turns = [Turn("user", row["prompt"])] if is_text else read_turns(row, "prompt")
        prompt = read_open_conversation(turns, "prompt")
    fields = _prompt(row, prompt, "images", "image")
    yield ImportedPair(**fields, first=first, second=second)


def llama_factory(row: Row) -> ItemIterator:
    """Read LLaMA-Factory's sharegpt preference format: conversations, chosen, rejected, images."""
    turns, name = _conversation(row)
    yield ImportedPair(
        **_prompt(row, read_open_conversation(turns, name)),
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
    prompt, first, second = read_pair(chosen, _swift_rejected(row, chosen), "messages")
    if row.get("rejected_images") and row.get("rejected_images") != row.get("images"):
        raise Skip("different images", "rejected_images")
    id = read_id(row, "id")
    yield ImportedPair(**_prompt(row, prompt), first=first, second=second, id=id)


def llava(row: Row) -> ItemIterator:
    """Read LLaVA's `conversations`, or `messages`: each response is a demonstration.

    The exchanges before it are its history, as LLaVA trains on every response of a conversation.
    """
    turns, name = _conversation(row)
    conversation = read_conversation(turns, name)
    for prompt, exchange in _prompts(row, conversation):
        yield ImportedDemonstration(**prompt, response=exchange.response)
    if conversation.response is None:
        yield Skip("no response", name)


def conversation_prompts(row: Row) -> ItemIterator:
    """Read `messages` or `conversations` as prompts.

    A conversation that ends with a user turn, as ms-swift has them for PPO, is one prompt. Of one
    that ends with a response, as for demonstrations, each user turn is a prompt.
    """
    conversation = read_conversation(*_conversation(row))
    if conversation.response is None:
        yield ImportedPrompt(**_prompt(row, conversation), id=read_id(row, "id"))
        return
    yield from (ImportedPrompt(**prompt) for prompt, _ in _prompts(row, conversation))


def _prompt(row: Row, conversation: Conversation, *image_columns: str) -> dict[str, Any]:
    """Return image, instruction and history of the last user turn, as fields of an item."""
    return {
        "image": image_of(row, conversation.first, *(image_columns or IMAGE_COLUMNS)),
        "instruction": conversation.instruction,
        "history": conversation.history,
    }


def _prompts(row: Row, conversation: Conversation) -> Iterator[tuple[dict[str, Any], Exchange]]:
    """Yield the prompt of every response, as fields of an item, and its exchange."""
    image, id = image_of(row, conversation.first, *IMAGE_COLUMNS), read_id(row, "id")
    exchanges = conversation.exchanges()
    for number, exchange in enumerate(exchanges):
        prompt = {"image": image, "instruction": exchange.instruction}
        numbered = f"{id}/{number + 1}" if id and number else id
        yield {**prompt, "history": exchanges[:number], "id": numbered}, exchange


def _conversation(row: Row) -> tuple[list[Turn], str]:
    """Read the column that holds the conversation; return its turns and its name."""
    if row.get("objects"):
        raise Skip("boxes of objects", "objects")
    name = present(row, *_TURN_COLUMNS)
    return read_turns(row, name), name


def _swift_turns(row: Row) -> list[Turn]:
    if row.get("messages") is not None:
        return _conversation(row)[0]
    return [Turn("user", read_text(row, "query")), Turn("assistant", read_text(row, "response"))]


def _swift_rejected(row: Row, chosen: list[Turn]) -> list[Turn]:
    """Return the rejected conversation: its own, or the chosen one with another last response."""
    if row.get("rejected_messages") is not None:
        return read_turns(row, "rejected_messages")
    return [*chosen[:-1], Turn("assistant", read_text(row, "rejected_response"))]
