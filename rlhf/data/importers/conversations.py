"""Take conversations apart: earlier exchanges, the last user turn, and the response to it."""

from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import NamedTuple

import msgspec

from rlhf.data.importers.fields import Row, Skip
from rlhf.data.importers.json_values import decode_values
from rlhf.data.importers.turns import Turn
from rlhf.data.record_faults import check_history
from rlhf.errors import DataError
from rlhf.history import Exchange, History

IMAGE_MARKER = "<image>"


class Conversation(NamedTuple):
    """A conversation up to its last user turn, and the response to it.

    Attributes:
        first: the first user turn, to which the image belongs.
        history: the exchanges before the last user turn.
        instruction: the text of the last user turn.
        response: the response to it; None if the conversation ends before it.
    """

    first: Turn
    history: History
    instruction: str
    response: str | None

    def exchanges(self) -> History:
        """Return all exchanges, the last one included if it has a response."""
        if self.response is None:
            return self.history
        return *self.history, Exchange(self.instruction, self.response)


def read_conversation(turns: Sequence[Turn], name: str) -> Conversation:
    """Take apart a conversation of user and assistant, by turns, with images in the first one.

    Args:
        turns: the conversation.
        name: the field it comes from.

    Raises:
        Skip: it has another form, turns of the system or of tools, or an image in a later turn.
    """
    roles = [turn.role for turn in turns]
    for role in ("system", "tool"):
        if role in roles:
            raise Skip(f"{role} turn", name)
    if not turns or roles != ["assistant" if n % 2 else "user" for n in range(len(turns))]:
        raise Skip("user and assistant do not take turns", name, ", ".join(roles))
    if any(
        turn.images or (turn.role == "user" and IMAGE_MARKER in turn.text) for turn in turns[1:]
    ):
        raise Skip("image in a later turn", name)
    texts = [turn.text for turn in turns]
    response = texts.pop() if len(texts) % 2 == 0 else None
    history = starmap(Exchange, zip(texts[:-1:2], texts[1::2], strict=True))
    return Conversation(turns[0], tuple(history), texts[-1], response)


def read_open_conversation(turns: Sequence[Turn], name: str) -> Conversation:
    """Take apart a conversation that ends with a user turn.

    Args:
        turns: the conversation.
        name: the field it comes from.

    Raises:
        Skip: it ends with a response, or is none that `read_conversation` reads.
    """
    conversation = read_conversation(turns, name)
    if conversation.response is not None:
        raise Skip("the conversation ends with a response", name)
    return conversation


def read_pair(
    chosen: Sequence[Turn], rejected: Sequence[Turn], name: str
) -> tuple[Conversation, str, str]:
    """Take apart two conversations that differ in their last turn only.

    Args:
        chosen: the conversation with the preferred response.
        rejected: the conversation with the other.
        name: the field that a Skip names.

    Returns:
        The chosen conversation, the chosen and the rejected response.

    Raises:
        Skip: the prompts differ, or a conversation does not end with a response.
    """
    if list(chosen[:-1]) != list(rejected[:-1]):
        raise Skip("different prompts", name)
    good, bad = read_conversation(chosen, name), read_conversation(rejected, name)
    if good.response is None or bad.response is None:
        raise Skip("no response", name)
    return good, good.response, bad.response


def read_history(row: Row) -> History:
    """Read the column `history`: earlier exchanges as pairs of texts, as objects, or as JSON text.

    Raises:
        Skip: it has another form.
    """
    value = row.get("history")
    if not value:
        return ()
    try:
        value = decode_values(value, object) if isinstance(value, str) else value
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            check_history({"history": value})
            return msgspec.convert(value, History)
        return tuple(starmap(Exchange, msgspec.convert(value, list[tuple[str, str]])))
    except (msgspec.MsgspecError, DataError) as error:
        raise Skip("unexpected form", "history", error) from error
