"""Say what is wrong with the fields of a record, and what to write there."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from rlhf.data.jsonl import printable_key
from rlhf.errors import DataError
from rlhf.history import Exchange, history_texts

_HELP = {
    "preference": "write response_a, response_b or tie (numbers are ambiguous: 1/2 or 0/1)",
    "history": 'write the earlier turns as [{"instruction": "…", "response": "…"}]',
}


def conversion_error(
    fields: Mapping[str, Any], kind: type[msgspec.Struct], reason: str
) -> DataError:
    """Turn msgspec's message into one that names the field and what to write there.

    Args:
        fields: the line as it was read.
        kind: the class of its record.
        reason: msgspec's message.
    """
    for name in fields:
        if name not in kind.__struct_fields__:
            similar = difflib.get_close_matches(name, kind.__struct_fields__, 1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            return DataError(f"unknown field{hint}", printable_key(name))
    message, _, place = reason.partition(" - at ")
    field = re.findall(r"\w+", place or message)[0 if place else -1]
    return DataError(_HELP.get(field, message), field)


def check_history(fields: Mapping[str, Any]) -> None:
    """Refuse other fields in earlier turns; msgspec forbids them in records only.

    Raises:
        DataError: an earlier turn has one; `where` names it.
    """
    history = fields.get("history")
    for turn in history if isinstance(history, list) else ():
        for name in turn if isinstance(turn, dict) else ():
            if name not in ("instruction", "response"):
                raise DataError(_HELP["history"], "history")


def check_texts(record: msgspec.Struct, texts: Sequence[str], history: Sequence[Exchange]) -> None:
    """Check that no required text of a record is blank or holds a NUL.

    Args:
        record: its fields are looked through for the text at fault.
        texts: of the required fields.
        history: its earlier turns.

    Raises:
        DataError: a text is; `where` is its field.
    """
    earlier = history_texts(history)
    if all(map(str.strip, (*texts, *earlier))) and "\0" not in "".join((*texts, *earlier)):
        return
    values = {x.name: getattr(record, x.name) for x in msgspec.structs.fields(record) if x.required}
    for field, value in (values | {"history": [*earlier]}).items():
        for text in value if isinstance(value, list) else [value]:
            if not text.strip() or "\0" in text:
                raise DataError("the text is empty or holds a NUL", field)
