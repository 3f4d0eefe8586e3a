"""Files of a model that somebody else wrote."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.errors import RlhfError, UsageError, is_out_of_memory


@contextmanager
def as_usage_error(what: str, where: str | Path, fix: str) -> Iterator[None]:
    """Whatever a library raises over files that are not what they should be, in three lines.

    Raises:
        UsageError: with the first line of what the library says.
    """
    try:
        yield
    except RlhfError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        said = str(error).strip().split("\n")[0] or type(error).__name__
        raise UsageError(what, f"{where}: {said}", fix) from error
