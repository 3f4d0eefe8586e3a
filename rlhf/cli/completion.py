"""Shell completion: commands, flags, options, choices, config groups and files.

`rlhf --shell-completion install=bash` prints the script for a shell, as Hydra's flag does.
"""

import os
from collections.abc import Iterable, Iterator
from glob import escape
from pathlib import Path

from rlhf.cli.call import FLAGS
from rlhf.cli.commands import COMMANDS
from rlhf.cli.directories import config_directory
from rlhf.config.option_types import choices, option_types, path_options
from rlhf.errors import UsageError

_BASH = """\
_rlhf() {
  COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
  local IFS=$'\\n' word
  COMPREPLY=()
  for word in $(COMP_LINE=${COMP_LINE:0:$COMP_POINT} rlhf --shell-completion query=bash); do
    [[ $word == *[=./] ]] || word="$word "
    COMPREPLY+=("$word")
  done
}
complete -o nospace -o default -F _rlhf rlhf
"""
_ZSH = """\
_rlhf() {
  local -a found
  found=(${(f)"$(COMP_LINE="${words[1,CURRENT]}" rlhf --shell-completion query=zsh)"})
  (( $#found )) && compadd -Q -S '' -a found || _files
}
compdef _rlhf rlhf
"""
_FISH = """\
function __rlhf
  COMP_LINE=(commandline -cp) rlhf --shell-completion query=fish
end
complete -c rlhf -f -a '(__rlhf)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
_WHERE = {
    "bash": 'eval "$(rlhf -sc install=bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(rlhf -sc install=zsh)"  # in ~/.zshrc, after compinit',
    "fish": "rlhf -sc install=fish | source  # in ~/.config/fish/config.fish",
}


def completion(request: str) -> str:
    """Return the script for a shell, or the words that complete the line in `COMP_LINE`.

    Args:
        request: `install=SHELL` or `query=SHELL`.

    Raises:
        UsageError: it is neither.
    """
    action, _, shell = request.partition("=")
    if action not in ("install", "query") or shell not in SCRIPTS:
        fix = f"write one of {'; '.join(_WHERE.values())}"
        raise UsageError("no such completion", f"--shell-completion={request}", fix)
    if action == "install":
        return SCRIPTS[shell]
    return "".join(f"{word}\n" for word in complete(os.environ.get("COMP_LINE", "")))


def complete(line: str) -> list[str]:
    """Return the words that the last word of a command line may become.

    Args:
        line: the text before the cursor, with the name of the program.
    """
    _, *words = line.split(" ")
    *before, word = words or [""]
    command = next((x for x in before if not x.startswith("-")), "")
    if word.startswith("-"):
        candidates: Iterable[str] = FLAGS
    elif command not in COMMANDS:
        candidates = COMMANDS
    elif "=" in word:
        candidates = _values(*word.split("=", 1))
    else:
        candidates = [*_names(command, word), *_files(command, word)]
    return sorted({x for x in candidates if x.startswith(word)})


def _names(command: str, word: str) -> Iterator[str]:
    """Yield options up to the next dot, and config groups."""
    for option, _ in option_types():
        section, dot, rest = option.partition(".")
        if not dot:
            yield f"{option}="
        elif word.startswith(f"{section}."):
            yield f"{section}.{rest}="
        elif section in COMMANDS[command].sections:
            yield f"{section}."
    yield from (f"{path.name}=" for path in config_directory().iterdir() if path.is_dir())
    yield from ("hydra/launcher=", "hydra/sweeper=") if word.startswith("hydra") else ()


def _values(name: str, value: str) -> list[str]:
    """List `name=…` with each choice, each file of a group, or each path that begins so."""
    hint = dict(option_types()).get(name)
    if name in path_options():
        found = _paths(value)
    elif hint is not None:
        found = [str(x).lower() if isinstance(x, bool) else str(x) for x in choices(hint)]
    elif name.startswith("hydra/"):
        found = _plugins(name)
    else:
        found = [path.stem for path in (config_directory() / name).glob("*.yaml")]
    return [f"{name}={text}" for text in found]


def _files(command: str, word: str) -> list[str]:
    return _paths(word) if COMMANDS[command].takes_files else []


def _paths(start: str) -> list[str]:
    """List the paths that begin so; a directory ends in a slash."""
    directory, slash, name = start.rpartition("/")
    parent = Path(f"{directory}{slash}" or ".").expanduser()
    found = parent.glob(f"{escape(name)}*") if parent.is_dir() else ()
    return [f"{directory}{slash}{path.name}{'/' * path.is_dir()}" for path in found]


def _plugins(group: str) -> list[str]:
    """List the launchers or sweepers that are installed."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # finds and registers them
    return [name.removesuffix(".yaml") for name in ConfigStore.instance().list(group)]
