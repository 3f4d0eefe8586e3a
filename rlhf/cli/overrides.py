"""Words of the command line as Hydra's grammar needs them: texts quoted, names checked."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString

from rlhf.config.option_types import defaults, leaves, text_options
from rlhf.config.synonyms import suggest_option
from rlhf.errors import UsageError

_ELEMENT = r"\s*(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")\s*(?=,|$)|[^,]*"


def hydra_overrides(
    command: str, words: Sequence[str], directories: Sequence[Path] | None, *, sweeps: bool
) -> list[str]:
    """Return the overrides of a command line in Hydra's grammar.

    The value of a text option arrives as typed, whatever characters it has: it is quoted here, and
    `${` in it is escaped. In a sweep its commas separate values, unless quotes protect them.

    Args:
        command: its name, for advice on names.
        words: `option=value`, `group=file`, as typed.
        directories: where groups of configs are; None: Hydra alone knows, and checks the names.
        sweeps: whether the command line is a sweep.

    Raises:
        UsageError: no option or group has the name.
    """
    if directories is not None:
        for word in words:
            _check_name(command, word, directories)
    return [_quoted(word, sweeps=sweeps) for word in words]


def override_name(word: str) -> str:
    """Return the option or group that an override names."""
    return word.partition("=")[0].lstrip("+~")


def swept_names(words: Sequence[str]) -> list[str]:
    """Return the options that several values are given for.

    Args:
        words: overrides in Hydra's grammar.
    """
    parsed = OverridesParser.create().parse_overrides(list(words))
    return [override.key_or_group for override in parsed if override.is_sweep_override()]


def _quoted(word: str, *, sweeps: bool) -> str:
    name, equals, value = word.partition("=")
    if not equals or override_name(word) not in text_options():
        return word
    values = split_texts(value) if sweeps else [value]
    return f"{name}={','.join(quote(without_quotes(text)) for text in values)}"


def split_texts(value: str) -> list[str]:
    """Split the texts of a sweep at the commas that are not inside a quoted text.

    `choice(a,b)` is `a,b`. Blanks around a text that is not quoted are dropped.
    """
    choice = re.fullmatch(r"choice\((.*)\)", value, re.DOTALL)
    text, texts, position = choice[1] if choice else value, list[str](), 0
    while position <= len(text):
        match = re.compile(_ELEMENT, re.DOTALL).match(text, position)
        assert match is not None  # also matches nothing
        texts.append(match[0])
        position = match.end() + 1
    return [part.strip() for part in texts] if len(texts) > 1 or choice else [value]


def quote(text: str) -> str:
    """Return a text in quotes that Hydra's grammar and OmegaConf read as this very text."""
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return str(QuotedString(escaped, Quote.single).with_quotes())


def without_quotes(text: str) -> str:
    """Remove the quotes around a whole text, and the backslashes that protect quotes inside it."""
    quoted = re.fullmatch(r"(['\"])((?:(?!\1)[^\\]|\\.)*)\1", text, re.DOTALL)
    if not quoted:
        return text
    return re.sub(rf"(\\+)(?={quoted[1]}|$)", lambda x: x[1][: len(x[1]) // 2], quoted[2])


def typed_value(word: str) -> str:
    """Return the value of an override in Hydra's grammar as it would be typed.

    `hydra_overrides` turns it into the same override again.
    """
    value = word.partition("=")[2]
    if override_name(word) not in text_options():
        return value
    escaped = str(OverridesParser.create().parse_override(word).value())
    text = re.sub(r"(\\*)\\\$\{", lambda x: x[1][: len(x[1]) // 2] + "${", escaped)
    is_quoted = without_quotes(text) != text
    return str(QuotedString(text, Quote.single).with_quotes()) if is_quoted else text


def _check_name(command: str, word: str, directories: Sequence[Path]) -> None:
    """Refuse a name that no option and no group has; Hydra would accept any after `+`."""
    name = override_name(word).partition("@")[0]
    known = [option for option, _ in leaves(defaults())]
    if name in known:
        if word.startswith("~"):
            fix = "give the value that it shall have"
            raise UsageError("~ drops a group file, an option always has a value", word, fix)
        return
    is_group = any((directory / name).is_dir() for directory in directories)
    if not is_group and not re.match(r"hydra[./]", name):
        advice = suggest_option(name, command) + ("; no file has this name" if "/" in word else "")
        raise UsageError(f"unknown option {name}", word, advice)
