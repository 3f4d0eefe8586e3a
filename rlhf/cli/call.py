"""Split a command line into the command, its files, its options and its flags."""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf.cli.commands import COMMANDS
from rlhf.commands.command_line import without_resume
from rlhf.config.validation import suggest_name
from rlhf.errors import UsageError

FLAGS = {
    "--help": "this text",
    "--version": "the version of rlhf",
    "--debug": "show the traceback of an error",
    "--json": "print the metrics as one JSON line, nothing else",
    "--multirun": "run every combination of the values of a sweep (also -m)",
    "--cfg": "job, hydra or all: print the composed options, run nothing (also -c)",
    "--resolve": "with --cfg: resolve interpolations",
    "--package": "with --cfg: print one section (also -p)",
    "--info": "what Hydra composes from: config, defaults, defaults-tree, plugins, searchpath",
    "--config-dir": "directory of your own configs, trusted as code is (also -cd)",
    "--config-name": "the config to begin with, instead of the command's (also -cn)",
    "--scorer": "FILE.py:NAME or http://…: gives the scores, for ppo, evaluate, score",
    "--judge": "FILE.py:NAME or http://…: scores beside them, unseen by training, for ppo",
    "--shell-completion": "install=bash, zsh or fish: print the script that completes (also -sc)",
}
SHORT = {
    "-h": "--help",
    "-m": "--multirun",
    "-c": "--cfg",
    "-p": "--package",
    "-i": "--info",
    "-cd": "--config-dir",
    "-cn": "--config-name",
    "-sc": "--shell-completion",
}
HYDRA_SWITCHES: tuple[str, ...] = ("--multirun", "--resolve")
VALUES = (
    "--cfg",
    "--package",
    "--config-dir",
    "--config-name",
    "--shell-completion",
)  # flags that take a word
SCORERS = ("--scorer", "--judge")  # flags that name a function or a service
SAME_RUNS = {"--debug", "--json", "--multirun"}  # flags that change nothing about a sweep's runs
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_OVERRIDE = r"[+~]{0,2}[A-Za-z_][\w./@:-]*="
_DELETION = r"~[A-Za-z_][\w/@]*"


@dataclass(frozen=True)
class Call:
    """A parsed command line.

    Attributes:
        command: its name; empty if there is none.
        files: words without `=`, and words that are the name of an existing file.
        overrides: words `option=value` or `group=file`.
        flags: words that begin with `-`, in their long form.
        values: the words that follow flags, by the long form of the flag.
    """

    command: str
    files: list[str]
    overrides: list[str]
    flags: set[str]
    values: dict[str, str] = field(default_factory=dict)

    @property
    def scorer(self) -> str:
        """What `--scorer=` names; a flag, so that no stored configuration can name code to run."""
        return self._named_by("--scorer=")

    @property
    def judge(self) -> str:
        """What `--judge=` names; a flag as `--scorer` is."""
        return self._named_by("--judge=")

    def _named_by(self, flag: str) -> str:
        values = [word.removeprefix(flag) for word in self.flags if word.startswith(flag)]
        return values[0] if values else ""

    @property
    def sweep_words(self) -> tuple[str, ...]:
        """The words by which a sweep is found again: all but `resume=` and what changes no run."""
        flags = [*sorted(self.flags - SAME_RUNS), *map("=".join, sorted(self.values.items()))]
        return (*self.files, *without_resume(self.overrides), *flags)

    @property
    def hydra_flags(self) -> list[str]:
        """The flags and their values that Hydra itself reads, to print rather than to run."""
        found = [flag for flag in HYDRA_SWITCHES if flag in self.flags]
        for flag, value in self.values.items():
            found.append(f"{flag}={value}")
        return found


def parse(arguments: Sequence[str]) -> Call:
    """Split a command line.

    Args:
        arguments: its words, without the name of the program.

    Raises:
        UsageError: an unknown command or flag, or one that the command does not take.
    """
    _check_encoding(arguments)
    flags, values, words = _split_flags(arguments)
    command = words[0] if words else ""
    if command and command not in COMMANDS:
        what, fix = f"unknown command {command}", suggest_name(command, COMMANDS)
        raise UsageError(what, f"rlhf {command}", fix)
    takes_files = bool(command) and COMMANDS[command].takes_files
    overrides = [
        word for word in words[1:] if is_override(word) and not (takes_files and _exists(word))
    ]
    files = [word for word in words[1:] if word not in overrides]
    if "--cfg" in values:
        _check_choice("--cfg", values["--cfg"], ("job", "hydra", "all"))
    for name in SCORERS:
        _check_scorer(command, name, [flag for flag in flags if flag.partition("=")[0] == name])
    if files and not takes_files:
        where, fix = f"rlhf {command} {files[0]}", "write options as name=value"
        raise UsageError(f"{command} takes options only, not the word {files[0]}", where, fix)
    return Call(command, files, overrides, set(flags), values)


def is_override(word: str) -> bool:
    """Tell whether a word is an override in Hydra's grammar: `name=value`, `+name=…`, `~group`."""
    return bool(re.match(_OVERRIDE, word) or re.fullmatch(_DELETION, word))


def _split_flags(arguments: Sequence[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Return the flags without a value, the values of the others, and the remaining words."""
    flags, values, words = list[str](), dict[str, str](), list[str]()
    remaining = deque(arguments)
    while remaining:
        word = remaining.popleft()
        name, equals, value = word.partition("=")
        name = SHORT.get(name, name)
        if not word.startswith("-"):
            words.append(word)
        elif name in VALUES:
            values[name] = value if equals else _next_value(name, remaining)
        elif name == "--info":
            follows = not equals and remaining and remaining[0] in INFO
            chosen = remaining.popleft() if follows else value or "all"
            values[name] = _check_choice(name, chosen, INFO)
        elif name in SCORERS or (name in FLAGS and not equals):
            flags.append(f"{name}{equals}{value}")
        else:
            raise UsageError(f"unknown flag {word}", word, f"flags are {' '.join(FLAGS)}")
    return flags, values, words


def _next_value(flag: str, remaining: deque[str]) -> str:
    value = remaining.popleft() if remaining else ""
    if not value:
        raise UsageError(f"{flag} needs a value", flag, f"write {flag}=…: {FLAGS[flag]}")
    return value


def _check_choice(flag: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        fix = f"choose one of {', '.join(choices)}"
        raise UsageError(f"{flag} has no such value", f"{flag}={value}", fix)
    return value


def _exists(word: str) -> bool:
    """Whether a word is the name of a file or directory, also one with `=` in it."""
    try:
        return Path(word).exists()
    except (OSError, ValueError):  # too long for a name, or a NUL
        return False


def _check_encoding(arguments: Sequence[str]) -> None:
    """Refuse words that are not UTF-8: they can be neither printed nor stored."""
    for word in arguments:
        if (shown := word.encode(errors="backslashreplace").decode()) != word:
            fix = "rename the file, or type the text anew in a UTF-8 terminal"
            raise UsageError("a word of the command line is not UTF-8", shown, fix)


def _check_scorer(command: str, name: str, flags: list[str]) -> None:
    """Refuse `--scorer` or `--judge` without a value, twice, or for a command that takes none."""
    where, fix = " ".join(["rlhf", command, *flags]), f"write {name}=FILE.py:NAME once"
    kind = name.removeprefix("--")
    commands = sorted(x for x, row in COMMANDS.items() if getattr(row, f"takes_{kind}"))
    if flags and command not in commands:
        fix = f"{name}=FILE.py:NAME is for {', '.join(commands)}"
        raise UsageError(f"{command} takes no {kind}", where, fix)
    if len(flags) > 1:
        raise UsageError(f"more than one {kind} is named", where, fix)
    if flags and not flags[0].partition("=")[2]:
        raise UsageError(f"no {kind} is named", where, fix)
