"""Every kind of value that the type of an option admits, as people type it."""

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from rlhf.config.choices import ValueFeature
from rlhf.config.ranges import Range

Values = list[tuple[str, object]]  # as typed, and what it means

TEXTS = [
    "plain",
    "two words, and: more = [than] {that}?",
    'it\'s "so"',
    "'a' or 'b'",
    "ends in \\",
    "back\\slash \\' quote",
    "${seed} \\${name} ${",
    "line\nbreak\tand tab",
    " outer blanks ",
    "häuser/~image=1,2.png",
    "# <image> </s> @ % ???",
    "true",
    "null",
    "3",
    "1e5",
    "[]",
    "",
]
NUMBERS = ["0", "1", "2", "+3", "40", "65_535", "0.25", ".5", "1.", "1e-3", "2.5E+2", "-1"]
LISTS: dict[object, Values] = {
    str: [("[]", ()), ("[ppo.lr]", ("ppo.lr",)), ("[seed, 'a, b']", ("seed", "a, b"))],
    float: [("[]", ()), ("[1]", (1.0,)), ("[0.5, 1e-1]", (0.5, 0.1))],
    ValueFeature: [("[]", ()), ("[position, logprobs]", ("position", "logprobs"))],
}


def admitted_values(hint: Any) -> Values:
    """List values of every kind that a type of the schema admits.

    Args:
        hint: the type, with its ranges.
    """
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Annotated:
        ranges = [note for note in arguments[1:] if isinstance(note, Range)]
        values = admitted_values(arguments[0])
        return [(text, x) for text, x in values if _within(x, ranges)] if ranges else values
    if kind in (Union, UnionType):
        return [pair for part in arguments for pair in admitted_values(part)]
    if kind is Literal:
        return [(value, value) for value in arguments]
    if kind is tuple:
        return LISTS[arguments[0]]
    return _plain(hint)


def _plain(hint: Any) -> Values:
    if hint is bool:
        return [("true", True), ("false", False), ("True", True), ("FALSE", False)]
    if hint is int:
        return [(text, int(text)) for text in NUMBERS if text.strip("+-_0123456789") == ""]
    if hint is float:
        return [(text, float(text)) for text in NUMBERS]
    return [("null", None)] if hint is type(None) else [(text, text) for text in TEXTS]


def _within(value: object, ranges: list[Range]) -> bool:
    return isinstance(value, int | float) and all(value in allowed for allowed in ranges)
