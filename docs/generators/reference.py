"""The reference of options, commands and metrics, from the code that defines them."""

import json
from collections.abc import Iterator

import rlhf
from docs.generators.markdown import table
from rlhf.cli.commands import COMMANDS
from rlhf.cli.help import command_help, option_comments, overview
from rlhf.config.option_types import defaults, describe_type, leaves, option_types
from rlhf.ppo.health import RULES
from rlhf.tracking.metrics import METRICS, USER_METRICS


def configuration() -> str:
    """Return the options, a table for each section of the schema."""
    types, comments = dict(option_types()), option_comments()
    rows: dict[str, list[tuple[str, ...]]] = {}
    for name, default in leaves(defaults()):
        kind = describe_type(types[name]).replace("|", "\\|")
        section = name.partition(".")[0] if "." in name else ""
        cells = (f"`{name}`", kind, f"`{_text(default)}`", comments.get(name, ""))
        rows.setdefault(section, []).append(cells)
    header = ("option", "takes", "default", "meaning")
    parts = [f"## {name or 'Without a section'}\n\n{table(header, rows[name])}" for name in rows]
    return "\n\n".join(parts)


def _text(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def commands() -> str:
    """Return the help of `rlhf` and of each command."""
    return "\n\n".join(_commands())


def _commands() -> Iterator[str]:
    yield f"```\n{overview().rstrip()}\n```"
    for name in COMMANDS:
        yield f"## rlhf {name}\n\n```\n{command_help(name).rstrip()}\n```"


def metrics() -> str:
    """Return every metric with its meaning and unit."""
    rows = [(f"`{name}`", meaning) for name, meaning in METRICS.items()]
    rows += [(f"`{name}…`", meaning) for name, meaning in USER_METRICS.items()]
    return table(("metric", "what it is"), rows)


def health_rules() -> str:
    """Return the rules of the health monitor."""
    rows = ((rule.name, f"`{rule.condition}`", rule.cause, rule.fix) for rule in RULES)
    return table(("warning", "condition", "usual cause", "what to do"), rows)


def interface() -> str:
    """Return the directives that document the names of the Python interface."""
    return "\n\n".join(f"::: rlhf.{name}" for name in rlhf.__all__)
