"""Read conversations of other datasets: turns of `{role, content}` or `{from, value}`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf.data.importers.fields import Row, Skip, image_content, present, read_image

_ROLES = {"human": "user", "user": "user", "system": "system"}
_ROLES |= dict.fromkeys(("tool", "tool_call", "tool_response", "function", "function_call"), "tool")
_ROLES |= {"observation": "tool"}


class Turn(NamedTuple):
    """One turn of a conversation.

    Attributes:
        role: user, assistant, system or tool; whoever has another name is the assistant.
        text: its text.
        images: for each part of it that is an image the image itself, or None.
    """

    role: str
    text: str
    images: tuple[str | bytes | None, ...] = ()


def read_turns(row: Row, name: str) -> list[Turn]:
    """Read the turns of a conversation, or a single message as a conversation of one turn.

    Raises:
        Skip: the field is missing or has another form.
    """
    value = row[present(row, name)]
    return [_turn(turn, name) for turn in (value if isinstance(value, list) else [value])]


def read_message(row: Row, name: str, role: str) -> str:
    """Read a field that holds a text, or one message.

    Args:
        row: the row.
        name: the field.
        role: the role that the message must have.

    Raises:
        Skip: the field is missing, or there is not one message of this role.
    """
    value = row[present(row, name)]
    if isinstance(value, str):
        return value
    if not isinstance(value, list | Mapping):
        raise Skip("not a text", name, type(value).__name__)
    turns = read_turns(row, name)
    if [turn.role for turn in turns] != [role]:
        raise Skip("not one message", name, ", ".join(turn.role for turn in turns))
    return turns[0].text


def image_of(row: Row, turn: Turn, *names: str) -> str | bytes:
    """Read the image of a conversation, from a column or else from the user's turn.

    Args:
        row: the row.
        turn: the user's turn.
        names: the columns.

    Raises:
        Skip: there is no image, or there are several.
    """
    if len(turn.images) > 1:
        raise Skip("several images", names[0])
    inside = [image for image in turn.images if image is not None]
    if inside and not any(row.get(name) for name in names):
        return inside[0]
    return read_image(row, *names)


def _turn(value: object, name: str) -> Turn:
    if not isinstance(value, Mapping):
        raise Skip("unexpected form", name, type(value).__name__)
    role = value.get("role") or value.get("from")
    content = value.get("content") if value.get("content") is not None else value.get("value")
    if not isinstance(role, str) or not isinstance(content, str | list):
        raise Skip("unexpected form", name, sorted(value))
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return _join(_ROLES.get(role, "assistant"), parts, name)


def _join(role: str, parts: Sequence[Any], name: str) -> Turn:
    """Join the parts of a message: its texts, and its images."""
    texts, images = list[str](), list[str | bytes | None]()
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind in ("image", "image_url"):
            images.append(image_content(part.get(kind) or part.get("path") or part.get("url")))
        elif kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            raise Skip("unknown part of a message", name, kind)
    return Turn(role, "".join(texts), tuple(images))
