"""The texts of `rlhf --help` and `rlhf COMMAND --help`, made from the table and the schema."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rlhf.cli.commands import COMMANDS
from rlhf.config.schema import Config, Section

FLAGS = {
    "--help": "this text",
    "--version": "the version of rlhf",
    "--debug": "show the traceback of an error",
    "--json": "print the metrics as one JSON line, nothing else",
    "--multirun": "run every combination of comma-separated values",
    "--scorer=…": "ppo, evaluate, score: a function FILE.py:NAME or an address http://… as judge",
}


def overview() -> str:
    """Return the help of `rlhf --help`: the commands and flags, one a line."""
    lines = ["rlhf COMMAND [FILE…] [option=value…] [flags]", ""]
    lines += [f"  {name:<10} {command.help}" for name, command in COMMANDS.items()]
    lines += ["", *(f"  {flag:<10} {text}" for flag, text in FLAGS.items())]
    lines += ["", "`rlhf COMMAND --help` lists its options."]
    return "\n".join(lines) + "\n"


def command_help(name: str, values: Mapping[str, Any]) -> str:
    """Return the help of one command: what it does, and its options with their values.

    Args:
        name: the command.
        values: the value of every option, nested by section.
    """
    command = COMMANDS[name]
    lines = [command.usage, "", command.help, ""]
    for option, comment in _comments(Config):
        if not isinstance(values[option], Mapping):
            lines.append(_line(option, values[option], comment))
    for section in command.sections:
        lines.append("")
        kind = type(getattr(Config(), section))
        for option, comment in _comments(kind):
            lines.append(_line(f"{section}.{option}", values[section][option], comment))
    return "\n".join(lines) + "\n"


def _line(name: str, value: object, comment: str) -> str:
    text = json.dumps(value) if value is None or isinstance(value, bool) else value
    return f"  {f'{name}={text}':<44} {comment}"


def _comments(section: type[Section]) -> Iterator[tuple[str, str]]:
    """Yield each option of a section with the comment on its line in the schema's source."""
    source = inspect.getsource(section)
    for option in section.__annotations__:
        match = re.search(rf"^    {option}: .*?(?:  # (.*))?$", source, re.MULTILINE)
        yield option, (match and match.group(1)) or ""
