"""Errors a person can act on: three lines (what, where, what to do) and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RlhfError(Exception):
    """An expected failure.

    Args:
        what: one sentence, what is wrong.
        where: the place, e.g. `pairs.jsonl:12:preference`.
        fix: one sentence, what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.where, self.fix) if line)


class UsageError(RlhfError):
    """Bad configuration or command line."""

    exit_code = 2


class DataError(RlhfError):
    """Bad input data: a record, a label or an image."""

    exit_code = 3


class DivergedError(RlhfError):
    """Training left the range in which its numbers mean anything."""

    exit_code = 4


class ResourceError(RlhfError):
    """Memory, disk or another resource ran out."""

    exit_code = 5


class DirectoryInUseError(RlhfError):
    """Another run owns the directory."""

    exit_code = 6


class StoppedError(RlhfError):
    """A signal ended the run: 130 SIGINT, 143 SIGTERM, 75 SIGUSR1 (saved, please requeue)."""

    def __init__(self, what: str, where: str, fix: str, exit_code: int) -> None:
        super().__init__(what, where, fix)
        self.exit_code = exit_code


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is Python's or torch's word, of any device, that memory ran out."""
    words = ("out of memory", "can't allocate memory")
    known = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return known or isinstance(error, MemoryError)


def out_of_memory(error: BaseException) -> ResourceError:
    """The same in three lines."""
    first = str(error).strip().split("\n")[0]
    fix = "lower batch sizes and tokens, or see what fits: rlhf plan with the same options"
    return ResourceError("memory ran out", first, fix)


@contextmanager
def as_usage_error(what: str, where: str | Path, fix: str) -> Iterator[None]:
    """Turn whatever a library raises inside the block into a usage error.

    For files that somebody else wrote: a damaged or foreign file makes libraries raise anything.
    Errors of this package and out-of-memory errors pass through unchanged.

    Args:
        what: one sentence, what is wrong.
        where: the place; the first line of the library's message is added.
        fix: one sentence, what to do about it.

    Raises:
        UsageError: the block raised.
    """
    try:
        yield
    except RlhfError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        message = str(error).strip().split("\n")[0] or type(error).__name__
        raise UsageError(what, f"{where}: {message}", fix) from error
