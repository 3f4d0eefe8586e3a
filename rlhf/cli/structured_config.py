"""The schema as a structured config, so that Hydra checks the types and choices of options."""

from dataclasses import field, fields, make_dataclass
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from rlhf.config.schema import Config, Section

# A text stays untyped here: OmegaConf would turn `instruction: no` of a YAML file into "False".
_UNTYPED: Any = Any


def structured_config(section: type[Section] = Config) -> type:
    """Return a dataclass that OmegaConf reads, with the names and defaults of a section.

    Numbers and switches have their type and choices are an Enum. Texts, and lists of them, are of
    any type there: `rlhf.config.validation.load_config` checks them, and every range.
    """
    name = f"{section.__name__}Node"
    if name not in globals():
        options: Any = fields(section)  # type: ignore[arg-type]
        hints = get_type_hints(section, include_extras=True)
        nodes = [(x.name, *_node(section, x.name, hints[x.name], x.default)) for x in options]
        _publish(make_dataclass(name, nodes))
    found: type = globals()[name]
    return found


def _node(section: type, name: str, hint: Any, default: Any) -> tuple[Any, Any]:
    """Return the type and the default of one option, or of one section."""
    if isinstance(hint, type) and issubclass(hint, Section):
        inner = structured_config(hint)
        return inner, field(default_factory=inner)
    kind = _node_type(f"{section.__name__}_{name}", hint)
    if isinstance(default, tuple):
        return kind, field(default_factory=lambda: list(default))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind, field(default=kind[default])
    return kind, field(default=default)


def _node_type(name: str, hint: Any) -> Any:
    """Return the type that OmegaConf has for a type of the schema; `name` is for an Enum."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _node_type(name, arguments[0])
    if origin in (Union, UnionType) and type(None) in arguments and len(arguments) == 2:
        inner = next(part for part in arguments if part is not type(None))
        return _node_type(name, inner) | None
    if origin is Literal and all(isinstance(x, str) and x for x in arguments):
        return _publish(Enum(name, {text: text for text in arguments}))
    if origin is tuple:
        return list[_UNTYPED]
    return hint if hint in (int, float, bool) else _UNTYPED


def _publish(kind: Any) -> Any:
    """Make a class importable from here, so that a launcher can send its objects elsewhere."""
    kind.__module__ = __name__
    globals()[kind.__name__] = kind
    return kind


structured_config()  # at import: other processes find the classes by their names
