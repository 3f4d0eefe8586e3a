"""Decode JSON of other tools: never more values at once than a machine has memory for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rlhf.data.jsonl import count_values

MAX_ELEMENT = 64_000_000  # characters of one row; an image of 20 MB in base64 fits
MAX_VALUES = 8_000_000  # decoded at once: each takes 100 bytes, however few it has in the file
_BLOCK = 1_000_000  # characters
_BLANKS = re.compile(r"[ \t\r\n]*")
_decoder = json.JSONDecoder(parse_int=str, parse_float=str)  # only finds where an element ends
T = TypeVar("T")


def decode_values(content: bytes | str, kind: type[T]) -> T:
    """Decode JSON as a value of a type.

    Args:
        content: the JSON.
        kind: a type that msgspec checks.

    Raises:
        msgspec.MsgspecError: it is no such JSON, or holds over `MAX_VALUES` values.
        RecursionError: it is nested too deeply.
    """
    _check_number(content.encode() if isinstance(content, str) else content)
    return msgspec.json.decode(content, type=kind)


def list_elements(path: Path) -> Iterator[bytes]:
    """Yield the elements of a file that is one JSON list, each as it is written there.

    Of a list of any length, one element and a block of the file are in memory at a time.

    Args:
        path: the file; its first character that is not blank is `[`.

    Raises:
        ValueError: it is no JSON in UTF-8, or an element is over `MAX_ELEMENT` characters.
        RecursionError: it is nested too deeply.
    """
    with path.open(encoding="utf-8-sig") as file:
        text, mark, number = file.read(_BLOCK), "[", 0
        at = _skip_blanks(text, 0) + 1
        while mark != "]":
            if place := _next_element(text, at, may_end=not number):
                start, end = place
                mark, number, at = text[end], number + 1, end + 1
                if start < end:
                    yield text[start:end].encode()
            else:
                text, at = _with_more(file.read(max(_BLOCK, len(text) - at)), text[at:], number), 0
        if text[_skip_blanks(text, at) :] or file.read(_BLOCK).strip():
            raise ValueError("it goes on after its list")


def _next_element(text: str, at: int, *, may_end: bool) -> tuple[int, int] | None:
    """Find the next element and the place of the mark after it; None if more text is needed."""
    start = _skip_blanks(text, at)
    if may_end and text[start : start + 1] == "]":
        return start, start
    try:
        end = _skip_blanks(text, _decoder.raw_decode(text, start)[1])
    except json.JSONDecodeError:  # perhaps it is only cut short
        return None
    return (start, end) if text[end : end + 1] in {",", "]"} else None  # of 3.5 there may be 3.


def _with_more(more: str, text: str, number: int) -> str:
    if not more:
        raise ValueError(f"element {number + 1} of the list is no JSON, or cut short")
    if len(text) > MAX_ELEMENT:
        raise ValueError(f"element {number + 1} of the list is no JSON, or over {MAX_ELEMENT:,}")
    _check_number((text + more).encode())
    return text + more


def _skip_blanks(text: str, at: int) -> int:
    found: Any = _BLANKS.match(text, at)
    return int(found.end())


def _check_number(content: bytes) -> None:
    if count_values(content) > MAX_VALUES:
        raise msgspec.DecodeError(f"it holds over {MAX_VALUES:,} values")
