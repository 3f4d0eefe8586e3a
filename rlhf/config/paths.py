"""The type of options that are paths, and the home directory in them."""

from pathlib import Path
from typing import Annotated

from rlhf.errors import UsageError


class PathMark:
    """Marks a text option as a path of this machine, in which `~` is the home directory."""


PathText = Annotated[str, PathMark()]


def expand_home(path: str, option: str) -> str:
    """Replace a leading `~` or `~NAME` by the home directory; a shell leaves it in `option=~/…`.

    Args:
        path: the value; `./~` is a file of that name.
        option: the option's name, for the error message.

    Raises:
        UsageError: there is no such home directory.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        home = path.partition("/")[0]
        fix = f"write the directory in full, or ./{home} for a file of this name"
        raise UsageError(f"there is no home directory {home}", f"{option}={path}", fix) from None
