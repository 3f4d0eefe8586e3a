"""Say what Hydra and OmegaConf refuse in three lines: what, where, what to do."""

import re
from collections.abc import Sequence

from rlhf.cli.overrides import override_name
from rlhf.config.option_types import describe_type, option_types
from rlhf.config.synonyms import suggest_option
from rlhf.errors import UsageError

_QUOTES = "put values with special characters in quotes: option=\"'…'\""


def usage_error(error: Exception, words: Sequence[str]) -> UsageError:
    """Convert an error of Hydra or OmegaConf.

    Args:
        error: its message, or that of its cause, names the option in a line `full_key: …`.
        words: overrides as typed.
    """
    cause = error.__cause__ or error
    message, *details = str(cause).strip().split("\n")
    if message.endswith("raised while composing config:"):
        words, (message, *details) = [message.split(":")[0]], details
    key = _full_key(details) or _quoted_key(message) or _quoted_key(str(error))
    where = next((word for word in words if override_name(word) == key), key or " ".join(words))
    hint = dict(option_types()).get(key)
    if hint is not None:
        return UsageError(message, where, f"{key} takes {describe_type(hint)}")
    if re.search(r"^Could not override|^Key '.*' (is )?not in", message):
        return UsageError(f"unknown option {key}", where, suggest_option(key))
    return UsageError(message, where, _choices(str(error)) or _advice(message))


def _full_key(details: Sequence[str]) -> str:
    keys = [line.partition("full_key: ")[2] for line in details if "full_key: " in line]
    return keys[0] if keys else ""


def _quoted_key(message: str) -> str:
    match = re.search(r"override '([\w.]+)'|merging override ([\w.]+)=|Key '([\w.]+)'", message)
    return next(filter(None, match.groups()), "") if match else ""


def _choices(message: str) -> str:
    """Return the files of the group that a message lists, as advice."""
    match = re.search(r"Available options in '(.*)':\n((?:\t.*\n?)+)", message)
    if not match:
        return ""
    names = [line.strip() for line in match[2].splitlines() if "=" not in line]
    return f"{match[1]} is one of {', '.join(names)}"


def _advice(message: str) -> str:
    if message.startswith("Ambiguous value"):
        return "add -m to run each of the values"
    is_grammar = re.search("viable|mismatched|extraneous|token recognition", message)
    return _QUOTES if is_grammar else "see `rlhf COMMAND --help` and `rlhf --help`"
