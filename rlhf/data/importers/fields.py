"""Read typed fields from a row of another dataset, and say why a row cannot be used."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

Row = Mapping[str, Any]
T = TypeVar("T")
IMAGE_COLUMNS = ("image", "image_path", "images")
INSTRUCTION_COLUMNS = ("instruction", "prompt", "question")

# Columns of what a record cannot hold, and the reason that their rows are counted under.
_REFUSED_COLUMNS = {"video": "video row", "videos": "video row"}
_REFUSED_COLUMNS |= {"audio": "audio row", "audios": "audio row"}
_REFUSED_COLUMNS |= {"system": "system turn", "tools": "tools"}


class Skip(Exception):
    """Says why a row, or an item of it, is skipped; raised or yielded instead of an item.

    Args:
        reason: a fixed phrase, by which skipped rows are counted.
        field: the column; "" for the row as a whole.
        detail: what was found in this row.
    """

    def __init__(self, reason: str, field: str = "", detail: object = "") -> None:
        self.reason, self.field, self.detail = reason, field, str(detail)
        super().__init__(reason)


class TrackedRow(dict[str, Any]):
    """A row that remembers which of its columns were read.

    Args:
        row: the row.
        read: the set that the names of columns are added to.
    """

    def __init__(self, row: Row, read: set[str]) -> None:
        super().__init__(row)
        self._read = read

    def get(self, name: str, default: Any = None) -> Any:
        """Return a column's value, or the default where the row has none."""
        self._read.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)


def refuse_columns(row: Row) -> None:
    """Skip a row with something that a record cannot hold: a video, a system turn, tools.

    Raises:
        Skip: one of these columns holds a value.
    """
    for name, reason in _REFUSED_COLUMNS.items():
        if name in row and row.get(name):
            raise Skip(reason, name)


def read_text(row: Row, *names: str) -> str:
    """Read the text of the first of these fields that is present.

    Raises:
        Skip: none is present, or it is no text.
    """
    name = present(row, *names)
    if not isinstance(row[name], str):
        raise Skip("not a text", name, type(row[name]).__name__)
    return str(row[name])


def present(row: Row, *names: str) -> str:
    """Return the first of these fields that the row has.

    Raises:
        Skip: it has none of them.
    """
    for name in names:
        if row.get(name) is not None:
            return name
    raise Skip("missing field", names[0])


def read_as(row: Row, name: str, kind: type[T]) -> T:
    """Convert a nested field to a type.

    Args:
        row: the row.
        name: the field.
        kind: the type that msgspec converts to.

    Raises:
        Skip: the field is missing, or has another form.
    """
    try:
        return msgspec.convert(row[present(row, name)], kind)
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
            if (content := image_content(value))
        ]
        if len(images) > 1:
            raise Skip("several images", name)
        if images:
            return images[0]
    raise Skip("no image", names[0])


def image_content(value: object) -> str | bytes | None:
    """Return an image as text or bytes, also from inside `{bytes, path}`; None for no image."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path") or value.get("url")
    return value if isinstance(value, str | bytes) and value else None


def read_id(row: Row, name: str) -> str:
    """Read an id, text or integer, as text; "" if there is none."""
    value = row.get(name)
    return str(value) if isinstance(value, str | int) else ""


def read_scalars(row: Row, *names: str) -> dict[str, Any]:
    """Read the fields that hold a text or an integer; leave out the others."""
    return {name: row[name] for name in names if isinstance(row.get(name), str | int)}
