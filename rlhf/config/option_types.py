"""Every option of the schema: its default and its type."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from rlhf.config.paths import PathMark
from rlhf.config.ranges import Range
from rlhf.config.schema import Config, Section


def defaults() -> dict[str, Any]:
    """Return every option with its default, nested by section."""
    return asdict(Config())


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of each leaf of a nested mapping.

    Args:
        values: the mapping.
        prefix: added in front of every name.
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def option_types(section: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the type of each option, with its ranges.

    Args:
        section: the section to begin with.
        prefix: added in front of every name.
    """
    for name, hint in get_type_hints(section, include_extras=True).items():
        if isinstance(hint, type) and issubclass(hint, Section):
            yield from option_types(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


@cache
def text_options() -> frozenset[str]:
    """Return the options whose every value is a text, so that `true` and `3` are texts too."""
    return frozenset(name for name, hint in option_types() if _is_text(hint))


@cache
def path_options() -> frozenset[str]:
    """Return the options that are paths of this machine."""
    return frozenset(name for name, hint in option_types() if _is_path(hint))


def choices(hint: Any) -> list[Any]:
    """Return the values that a type admits, if they can be listed; else an empty list."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return [value for part in parts for value in choices(part)] + [True, False] * (hint is bool)


def describe_type(hint: Any) -> str:
    """Describe what an option takes in words, such as `a number over 0, or null`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return ", or ".join(describe_type(part) for part in arguments)
    if origin is Annotated:
        ranges = [str(note) for note in arguments[1:] if isinstance(note, Range)]
        return " ".join([describe_type(arguments[0]), *ranges])
    if origin is tuple:
        return f"a list: [{describe_type(arguments[0])}, …]"
    if origin is Literal:
        return " | ".join(str(value) or "''" for value in arguments)
    return _PLAIN.get(hint, "a text")


_PLAIN = {bool: "true | false", int: "an integer", float: "a number", type(None): "null"}


def _is_path(hint: Any) -> bool:
    return any(isinstance(note, PathMark) for note in getattr(hint, "__metadata__", ()))


def _is_text(hint: Any) -> bool:
    literals = get_args(hint) if get_origin(hint) is Literal else ()
    return getattr(hint, "__origin__", hint) is str or (
        bool(literals) and all(isinstance(text, str) for text in literals)
    )
