"""Typed access to the fields of a foreign row, and the pair a row is read as."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

Row = Mapping[str, Any]
T = TypeVar("T")
IMAGE_COLUMNS = ("image", "image_path")
INSTRUCTION_COLUMNS = ("instruction", "prompt", "question")


class Skip(Exception):
    """Why a row, or one pair of it, is left out.

    Args:
        reason: a fixed phrase, under which it is counted.
        field: the column.
        detail: what is special to this row.
    """

    def __init__(self, reason: str, field: str = "", detail: object = "") -> None:
        self.reason, self.field, self.detail = reason, field, str(detail)
        super().__init__(reason)


class ImportedPair(msgspec.Struct, frozen=True, kw_only=True):
    """Two answers to one question; label "a" prefers `first`, "b" `second`, or as the set codes it.

    `image` is a path, base64 text or the bytes of an image; `about` describes each answer;
    `keeps_sides` says that a person saw `first` and `second` as sides.
    """

    image: str | bytes
    instruction: str
    first: str
    second: str
    label: object = "a"
    keeps_sides: bool = False
    id: str = ""
    annotator: str = ""
    shown_left: str = ""
    seconds: float | None = None
    created_at: str = ""
    source: str | None = None  # None: the name of the set
    meta: Mapping[str, Any] = {}
    response_meta: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})


class _Turn(msgspec.Struct):
    speaker: str = msgspec.field(name="from")
    value: str


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part]


PairIterator = Iterator[ImportedPair | Skip]


def read_text(row: Row, *names: str) -> str:
    """The first of these fields that is there."""
    name = next((name for name in names if row.get(name) is not None), "")
    if not name:
        raise Skip("missing field", names[0])
    if not isinstance(row[name], str):
        raise Skip("not a text", name, type(row[name]).__name__)
    return str(row[name])


def read_as(row: Row, name: str, kind: type[T]) -> T:
    """A nested field in its expected form."""
    if row.get(name) is None:
        raise Skip("missing field", name)
    try:
        return msgspec.convert(row[name], kind)
    except msgspec.ValidationError as error:
        raise Skip("unexpected form", name, error) from error


def read_image(row: Row, *names: str) -> str | bytes:
    """The one image in the first of these fields that holds any."""
    for name in names:
        values = row.get(name)
        found = [
            content
            for value in (values if isinstance(values, list) else [values])
            if (content := _content(value))
        ]
        if len(found) > 1:
            raise Skip("several images", name)
        if found:
            return found[0]
    raise Skip("no image", names[0])


def _content(value: object) -> str | bytes | None:
    """What stands for an image: text or bytes, also inside `{bytes, path}`."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, str | bytes) and value else None


def read_id(row: Row, name: str) -> str:
    """The source's own id as text; "" without one."""
    value = row.get(name)
    return str(value) if isinstance(value, str | int) else ""


def read_scalars(row: Row, *names: str) -> dict[str, Any]:
    """The plain values among these fields."""
    return {name: row[name] for name in names if isinstance(row.get(name), str | int)}


def strip_image_marker(value: str, name: str) -> str:
    """The text without the `<image>` that LLaVA's format puts before or after it."""
    if value.count("<image>") > 1:
        raise Skip("several images", name)
    return re.sub(r"\A\s*<image>\s*|\s*<image>\s*\Z", "", value)


def read_single_turn(row: Row, name: str) -> tuple[str, str]:
    """Question and answer of a conversation `[{from, value}]` with one user turn.

    More turns are refused: our record has one instruction, and earlier answers belong in it
    neither as the user's words nor unmarked.
    """
    turns = read_as(row, name, list[_Turn])
    questions = [turn.value for turn in turns if turn.speaker in ("human", "user")]
    responses = [turn.value for turn in turns if turn.speaker not in ("human", "user")]
    if len(questions) != 1 or len(responses) > 1:
        raise Skip("not one user turn", name, f"{len(questions)} user turns")
    return strip_image_marker(questions[0], name), "".join(responses)


def read_message(row: Row, name: str, role: str) -> str:
    """The text of a field in trl's form: plain, or one message of this role."""
    if isinstance(row.get(name), str):
        return read_text(row, name)
    messages = read_as(row, name, list[_Message])
    if [item.role for item in messages] != [role]:
        raise Skip("not one message", name, ", ".join(item.role for item in messages))
    content = messages[0].content
    if isinstance(content, str):
        return content
    return "".join(part.text or "" for part in content if part.type == "text")
