"""Read typed fields from a row of another dataset, and hold the pair that a row becomes."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

Row = Mapping[str, Any]
T = TypeVar("T")
IMAGE_COLUMNS = ("image", "image_path")
INSTRUCTION_COLUMNS = ("instruction", "prompt", "question")


class Skip(Exception):
    """Says why a row, or a pair of it, is skipped; raised or yielded instead of a pair.

    Args:
        reason: a fixed phrase, by which skipped rows are counted.
        field: the column; "" for the row as a whole.
        detail: what was found in this row.
    """

    def __init__(self, reason: str, field: str = "", detail: object = "") -> None:
        self.reason, self.field, self.detail = reason, field, str(detail)
        super().__init__(reason)


class ImportedPair(msgspec.Struct, frozen=True, kw_only=True):
    """Two responses to one instruction and the preference, as the dataset writes them.

    Attributes:
        image: a path, base64 text or the bytes of an image file.
        instruction: what was asked.
        first: one response.
        second: the other.
        label: "a" if `first` is preferred, "b" if `second` is, or another value of `parse_label`.
        keeps_sides: whether a person saw `first` on the left and `second` on the right.
        id: the row's id in the dataset.
        annotator: who judged.
        shown_left: the response shown on the left, response_a or response_b.
        seconds: how long the annotator looked at the pair.
        created_at: ISO 8601 time.
        source: the dataset it was taken from; None for the dataset that is imported.
        meta: anything else about the row.
        response_meta: what describes each of the two responses, e.g. its model.
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
    source: str | None = None
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
    """Read the text of the first of these fields that is present.

    Raises:
        Skip: none is present, or it is no text.
    """
    name = next((name for name in names if row.get(name) is not None), "")
    if not name:
        raise Skip("missing field", names[0])
    if not isinstance(row[name], str):
        raise Skip("not a text", name, type(row[name]).__name__)
    return str(row[name])


def read_as(row: Row, name: str, kind: type[T]) -> T:
    """Convert a nested field to a type.

    Args:
        row: the row.
        name: the field.
        kind: the type that msgspec converts to.

    Raises:
        Skip: the field is missing, or has another form.
    """
    if row.get(name) is None:
        raise Skip("missing field", name)
    try:
        return msgspec.convert(row[name], kind)
    except msgspec.ValidationError as error:
        raise Skip("unexpected form", name, error) from error


def read_image(row: Row, *names: str) -> str | bytes:
    """Read the image of the first of these fields that holds any; it must be a single image.

    Returns:
        A path or base64 text, or the bytes of an image file.

    Raises:
        Skip: no field holds an image, or it holds several.
    """
    for name in names:
        values = row.get(name)
        images = [
            content
            for value in (values if isinstance(values, list) else [values])
            if (content := _image_content(value))
        ]
        if len(images) > 1:
            raise Skip("several images", name)
        if images:
            return images[0]
    raise Skip("no image", names[0])


def _image_content(value: object) -> str | bytes | None:
    """Return an image as text or bytes, also from inside `{bytes, path}`; None for no image."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, str | bytes) and value else None


def read_id(row: Row, name: str) -> str:
    """Read an id, text or integer, as text; "" if there is none."""
    value = row.get(name)
    return str(value) if isinstance(value, str | int) else ""


def read_scalars(row: Row, *names: str) -> dict[str, Any]:
    """Read the fields that hold a text or an integer; leave out the others."""
    return {name: row[name] for name in names if isinstance(row.get(name), str | int)}


def strip_image_marker(value: str, name: str) -> str:
    """Remove the `<image>` that LLaVA's format puts before or after an instruction.

    Raises:
        Skip: there are several.
    """
    if value.count("<image>") > 1:
        raise Skip("several images", name)
    return re.sub(r"\A\s*<image>\s*|\s*<image>\s*\Z", "", value)


def read_single_turn(row: Row, name: str) -> tuple[str, str]:
    """Read instruction and response of a conversation `[{from, value}]` with one user turn.

    A record has one instruction, so conversations with more turns are refused.

    Raises:
        Skip: the field is missing or has another form, or there is not exactly one user turn.
    """
    turns = read_as(row, name, list[_Turn])
    questions = [turn.value for turn in turns if turn.speaker in ("human", "user")]
    responses = [turn.value for turn in turns if turn.speaker not in ("human", "user")]
    if len(questions) != 1 or len(responses) > 1:
        raise Skip("not one user turn", name, f"{len(questions)} user turns")
    return strip_image_marker(questions[0], name), "".join(responses)


def read_message(row: Row, name: str, role: str) -> str:
    """Read a field in trl's format: a text, or one message.

    Args:
        row: the row.
        name: the field.
        role: the role that the message must have.

    Raises:
        Skip: the field is missing, or there is not one message of this role.
    """
    if isinstance(row.get(name), str):
        return read_text(row, name)
    messages = read_as(row, name, list[_Message])
    if [item.role for item in messages] != [role]:
        raise Skip("not one message", name, ", ".join(item.role for item in messages))
    content = messages[0].content
    if isinstance(content, str):
        return content
    return "".join(part.text or "" for part in content if part.type == "text")
