"""The texts of `rlhf --help` and `rlhf COMMAND --help`, made from the table and the schema."""

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from rlhf.cli.call import FLAGS, SHORT
from rlhf.cli.commands import COMMANDS, Command
from rlhf.cli.directories import config_directory, root_config
from rlhf.cli.notes import is_read
from rlhf.config.option_types import defaults, describe_type, leaves, option_types
from rlhf.config.schema import Config, Section

__all__ = ["FLAGS", "command_help", "overview"]


def overview() -> str:
    """Return the help of `rlhf --help`: the commands and flags, one a line."""
    lines = ["rlhf COMMAND [FILE…] [option=value…] [flags]", ""]
    lines += [f"  {name:<10} {command.help}" for name, command in COMMANDS.items()]
    lines += ["", *(f"  {flag:<20} {text}" for flag, text in FLAGS.items())]
    lines += ["", "`rlhf COMMAND --help` lists its options. It is a Hydra application:"]
    lines += ["sweeps, groups of options, launchers and sweepers are those of hydra.cc."]
    return "\n".join(lines) + "\n"


def command_help(name: str) -> str:
    """Return the help of one command: what it does, what it needs, its groups and its options."""
    command = COMMANDS[name]
    values = {**dict(leaves(defaults())), **_root_values(name)}
    comments = option_comments()
    lines = [command.help, "", f"example: {command.usage}"]
    if command.required:
        lines += ["", "required (or an experiment that has them)"]
        lines += [_line(option, values, comments) for option in command.required]
    lines += ["", "groups of options", *_groups(command)]
    for title, options in _sections(name, command, [*comments]):
        lines += ["", title, *(_line(option, values, comments) for option in options)]
    flags = " ".join([*FLAGS, *SHORT])
    return "\n".join([*lines, "", f"flags, see `rlhf --help`: {flags}"]) + "\n"


def _sections(name: str, command: Command, known: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield a title and the options of each section; options of this command alone come first."""
    listed = {*command.required}
    if command.root_options:
        yield f"options of rlhf {name}", [x for x in command.root_options if x not in listed]
    for section in command.sections:
        options = [x for x in known if x.startswith(f"{section}.") and is_read(name, x)]
        yield section, [x for x in options if x not in listed]
    yield "options of every command", ["seed", "name", "output_dir", "device", "dtype"]


def _line(option: str, values: dict[str, Any], comments: dict[str, str]) -> str:
    value, hint = values[option], dict(option_types())[option]
    plain = value is None or isinstance(value, bool | list | tuple)
    shown = f"{option}={json.dumps(value) if plain else value}"
    kind = "" if describe_type(hint) == "a text" else f"  [{describe_type(hint)}]"
    return f"  {shown:<40} {comments[option]}{kind}"


def _groups(command: Command) -> Iterator[str]:
    """Yield a line for each group of conf/: the files to choose from."""
    for directory in sorted(path for path in config_directory().iterdir() if path.is_dir()):
        if directory.name == "experiment" or directory.name in command.sections:
            files = sorted(path.stem for path in directory.glob("*.yaml"))
            yield f"  {directory.name}={' | '.join(files)}"


def _root_values(command: str) -> dict[str, Any]:
    """Return the values that the root config of a command, and its experiment, set."""
    root = _read_yaml(f"{root_config(command)}.yaml")
    chosen = [entry["experiment"] for entry in root["defaults"] if isinstance(entry, dict)]
    experiment = _read_yaml(f"experiment/{chosen[0]}.yaml") if chosen and chosen[0] else {}
    return dict(leaves(root)) | dict(leaves(experiment))


def _read_yaml(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((config_directory() / name).read_text()))


def option_comments(section: type[Section] = Config, prefix: str = "") -> dict[str, str]:
    """Return the comment on each option's line in the schema's source, by the option's name.

    Args:
        section: the section to begin with.
        prefix: added in front of every name.
    """
    found = dict[str, str]()
    source = inspect.getsource(section)
    for option in section.__annotations__:
        value = getattr(section, option)
        if isinstance(value, Section):
            found |= option_comments(type(value), f"{prefix}{option}.")
        else:
            match = re.search(rf"^    {option}: .*?(?:  # (.*))?$", source, re.MULTILINE)
            found[f"{prefix}{option}"] = (match and match.group(1)) or ""
    return found
