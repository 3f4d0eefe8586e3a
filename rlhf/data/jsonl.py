"""Read JSON Lines files: lines of bounded length, one JSON object without repeated keys each."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rlhf.data.file_kinds import kind_of
from rlhf.errors import DataError

MAX_LINE_BYTES = 16_000_000
MAX_LINE_VALUES = 200_000  # each takes 100 bytes and more, however few it has in the file
_MAX_SKIPPED_BYTES = 250_000_000  # of a longer line; a file with holes may have one without end
_MAX_DOCUMENT_BYTES = 1_000_000  # of a file that is looked through for a list of records
_MAX_COUNTED_BYTES = 4_000_000_000  # of a file whose lines are counted to show progress
T = TypeVar("T")
_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"  # what JSON allows between a key and its colon
_decoder = msgspec.json.Decoder()


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number (from 1) and bytes of every line that is not blank, without a BOM.

    A line longer than `MAX_LINE_BYTES` is cut after `MAX_LINE_BYTES` + 1 bytes.

    Raises:
        OSError: it is no regular file, cannot be read, or has a line of over 250 MB.
    """
    if path.exists() and not path.is_file():  # a FIFO would block for ever
        raise OSError(0, "not a regular file")
    limit = MAX_LINE_BYTES + 1
    with path.open("rb") as file:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        for number in count(1):
            chunk = line = file.readline(limit)
            if not line:
                return
            skipped = 0
            while len(chunk) == limit and not chunk.endswith(b"\n"):
                chunk = file.readline(limit)
                skipped += len(chunk)
                if skipped > _MAX_SKIPPED_BYTES:
                    raise OSError(0, f"line {number} is over {_MAX_SKIPPED_BYTES // 10**6} MB")
            if len(line) == limit or not line.isspace():
                yield number, line


def count_lines(path: Path) -> int:
    """Count the lines of a file, blank ones included; 0 when it cannot be read, or is over 4 GB."""
    with suppress(OSError):
        if path.is_file() and path.stat().st_size <= _MAX_COUNTED_BYTES:
            with path.open("rb") as file:
                return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    return 0


def starts_with_bom(path: Path) -> bool:
    """Tell whether a file begins with a byte order mark, which JSON does not allow."""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(len(_BOM)) == _BOM
    return False


def json_object(line: bytes) -> dict[str, Any]:
    """Decode a line as one JSON object.

    Raises:
        DataError: it is no JSON object in UTF-8, is too long, holds too many values or a NUL, or
            repeats a key.
    """
    if len(line) > MAX_LINE_BYTES:
        raise DataError(f"a line is at most {MAX_LINE_BYTES} bytes")
    if count_values(line) > MAX_LINE_VALUES:
        raise DataError(f"a line holds at most {MAX_LINE_VALUES} values")
    try:
        fields = _decoder.decode(line)  # refuses what json lets pass: NaN, lone surrogates
        if not isinstance(fields, dict):
            raise DataError(f"a line is one JSON object, got {type(fields).__name__}")
        _refuse_repeated_keys(line, fields)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        reason = "it holds a NUL" if b"\0" in line else f"{error}{_encoding_hint(line)}"
        raise DataError(f"a line is one JSON object in UTF-8: {reason}") from error
    return fields


def count_values(content: bytes) -> int:
    """Count what separates values in JSON, which is no less than their number, before decoding."""
    return sum(content.count(mark) for mark in (b",", b"[", b"{"))


def layout_fault(path: Path) -> str:
    """Say what a file is that holds no JSON Lines at all, and what helps; "" for any other file.

    Raises:
        OSError: it is no regular file, or cannot be read.
    """
    lines = [line for _, line in islice(read_lines(path), 2)]
    first = b"".join(lines[:1]).lstrip()
    if first and (kind := kind_of(first[:512])):
        return f"it is {kind.name}: {kind.fix}"
    if first.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return "it is an image: give the file of records"
    if first.startswith(b"[") and (len(lines) == 1 or not _is_json(first)):
        return f"it is a JSON list: jq -c '.[]' {path.name} > {path.stem}.jsonl makes JSON Lines"
    if len(lines) == 1 or (first.strip() == b"{" and lines[1].lstrip().startswith(b'"')):
        return _document_fault(path, first)
    if not first.startswith(b"{") and b"image" in first.partition(b"\n")[0]:
        return "it is a table: rlhf import table FILE output=DIRECTORY"
    return ""


def _document_fault(path: Path, first: bytes) -> str:
    """Say what helps where a file is one JSON document around a list, or over several lines.

    Args:
        path: the file.
        first: its first line.
    """
    target = f"{path.name} > {path.stem}.jsonl"
    if path.stat().st_size <= _MAX_DOCUMENT_BYTES and (name := _list_in(path.read_bytes())):
        return f"it is JSON around the list {name!r}: jq -c '.{name}[]' {target} makes JSON Lines"
    if first.strip() == b"{":
        return f"it is JSON over several lines: jq -c . {target} makes JSON Lines"
    return ""


def _list_in(document: bytes) -> str:
    """Return the key under which a JSON object has a list of objects; "" for none, or a record."""
    try:
        values = _decoder.decode(document.removeprefix(_BOM))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
    lists = values.items() if isinstance(values, dict) and "image_path" not in values else ()
    return next(
        (key for key, x in lists if isinstance(x, list) and x and isinstance(x[0], dict)), ""
    )


def _is_json(line: bytes) -> bool:
    try:
        _decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


def decode_object(content: bytes, kind: type[T]) -> T:
    """Decode a JSON object as a value of a type.

    Args:
        content: the object; no key may occur twice in it.
        kind: a type that msgspec checks.

    Raises:
        DataError: a key is repeated, of which one value would be dropped.
        msgspec.MsgspecError: it is no such object.
    """
    value = msgspec.json.decode(content, type=kind)
    json.loads(content, object_pairs_hook=_without_repeats)
    return value


def _encoding_hint(line: bytes) -> str:
    """Name the encoding of most texts that are not UTF-8."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return "; a file from Windows: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
    return ""


def printable_key(key: str) -> str:
    """Format a key for an error message: without control characters, short, never empty."""
    return json.dumps(key)[1:-1][:80] or '""'


def _refuse_repeated_keys(line: bytes, fields: dict[str, Any]) -> None:
    """Refuse a key that occurs twice in one object, of which msgspec keeps the last.

    Every key in the line is followed by a colon, and `":` once blanks are removed, so the number
    of either is at least the number of keys. If that equals the keys decoded, none is repeated.
    Otherwise a text contains these characters or a key is repeated: the slow parser decides.
    """
    if line.count(b":") == len(fields):
        return
    written = line.translate(None, _BLANKS).count(b'":')
    if written != len(fields) and written != _count_keys(fields):
        json.loads(line, object_pairs_hook=_without_repeats)


def _count_keys(fields: dict[str, Any]) -> int:
    """Count the keys of an object and of all objects inside it."""
    keys, pending = 0, list[Any]([fields])
    while pending:  # no recursion: json may nest deeper than Python calls
        value = pending.pop()
        if isinstance(value, dict):
            keys += len(value)
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return keys


def _without_repeats(pairs: list[tuple[str, Any]]) -> None:
    """Raise DataError if a key of one object is repeated; used as json's object hook."""
    for key, times in Counter(key for key, _ in pairs).items():
        if times > 1:
            raise DataError("the field is written twice", printable_key(key))
