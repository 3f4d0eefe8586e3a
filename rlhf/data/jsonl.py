"""JSON Lines: bounded reading, one JSON object without twins a line, one atomic step on writing."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from rlhf.errors import DataError

MAX_LINE_BYTES = 16_000_000
_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"  # what JSON allows between a key and its colon
_decoder = msgspec.json.Decoder()


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of every line that is not blank, without a BOM.

    Of a line over `MAX_LINE_BYTES` only the first `MAX_LINE_BYTES` + 1 come.

    Raises:
        OSError: not a regular file, or it cannot be read.
    """
    if path.exists() and not path.is_file():  # a FIFO would block for ever
        raise OSError(0, "not a regular file")
    most = MAX_LINE_BYTES + 1
    with path.open("rb") as file:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        for number in count(1):
            rest = line = file.readline(most)
            if not line:
                return
            while len(rest) == most and not rest.endswith(b"\n"):
                rest = file.readline(most)
            if len(line) == most or not line.isspace():
                yield number, line


def count_lines(path: Path) -> int:
    """How many lines a file has, blank ones included; 0 when it cannot be read."""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    return 0


def starts_with_bom(path: Path) -> bool:
    """Whether a byte order mark comes first, which JSON does not have; False if unreadable."""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(len(_BOM)) == _BOM
    return False


def json_object(line: bytes) -> dict[str, Any]:
    """The fields of a line.

    Raises:
        DataError: no JSON object in UTF-8, too long, a NUL, or a key written twice.
    """
    if len(line) > MAX_LINE_BYTES:
        raise DataError(f"a line is at most {MAX_LINE_BYTES} bytes")
    try:
        fields = _decoder.decode(line)  # refuses what json lets pass: NaN, lone surrogates
        if not isinstance(fields, dict):
            raise DataError(f"a line is one JSON object, got {type(fields).__name__}")
        _check_twins(line, fields)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        reason = "it holds a NUL" if b"\0" in line else error
        raise DataError(f"a line is one JSON object in UTF-8: {reason}") from error
    return fields


def shown_key(key: str) -> str:
    """A key as a place in a message: without control characters, short, never empty."""
    return json.dumps(key)[1:-1][:80] or '""'


def _check_twins(line: bytes, fields: dict[str, Any]) -> None:
    """Refuse a key written twice in one object: msgspec keeps the last.

    Each key is written with a colon, and without blanks it ends in `":`, so that counting either
    in the line gives at least the keys written. As many keys kept leave no room for a twin; else
    a text holds such signs, or there are twins: json tells.
    """
    if line.count(b":") == len(fields):
        return
    written = line.translate(None, _BLANKS).count(b'":')
    if written != len(fields) and written != _count_keys(fields):
        json.loads(line, object_pairs_hook=_refuse_twins)


def _count_keys(fields: dict[str, Any]) -> int:
    """Keys of an object and of all objects inside."""
    keys, pending = 0, list[Any]([fields])
    while pending:  # no recursion: json may nest deeper than Python calls
        value = pending.pop()
        if isinstance(value, dict):
            keys += len(value)
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return keys


def _refuse_twins(pairs: list[tuple[str, Any]]) -> None:
    for key, times in Counter(key for key, _ in pairs).items():
        if times > 1:
            raise DataError("the field is written twice", shown_key(key))
