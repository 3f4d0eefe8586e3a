"""Errors that a user can act on: what is wrong, where, how to fix it, and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Error = TypeVar("Error", bound="RlhfError")


class RlhfError(Exception):
    """An expected failure, printed without a traceback as up to three lines: what, where, fix.

    Attributes:
        what: one sentence, what is wrong.
        where: the place, e.g. `pairs.jsonl:12:preference`; may be empty.
        fix: one sentence, what to do about it; may be empty.
        exit_code: exit code of the command that the error ends.
        on_every_process: every process of the run raises it, at the same point.
    """

    what: str
    where: str
    fix: str
    exit_code = 1
    on_every_process = False

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        """Build the error from its three lines.

        Args:
            what: one sentence, what is wrong.
            where: the place, e.g. `pairs.jsonl:12:preference`.
            fix: one sentence, what to do about it.
        """
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        """The lines that are not empty."""
        return "\n".join(line for line in (self.what, self.where, self.fix) if line)


class UsageError(RlhfError):
    """Bad configuration or command line."""

    exit_code = 2


class DataError(RlhfError):
    """Bad input data: a record, a label or an image."""

    exit_code = 3


class DivergedError(RlhfError):
    """Training diverged: losses or weights are not finite, or a health warning ended the run."""

    exit_code = 4
    on_every_process = True


class ResourceError(RlhfError):
    """Memory, disk or another resource ran out."""

    exit_code = 5


class LostProcessError(ResourceError):
    """Another process of the run ended, or did not answer in time."""


class DirectoryInUseError(RlhfError):
    """Another run owns the directory."""

    exit_code = 6


class StoppedError(RlhfError):
    """A signal ended the run: 130 SIGINT, 143 SIGTERM or SIGHUP, 75 SIGUSR1."""

    def __init__(self, what: str, where: str, fix: str, exit_code: int) -> None:
        """Build the error from its three lines and the exit code of the signal.

        Args:
            what: one sentence, which signal came.
            where: the run directory.
            fix: one sentence, how to go on.
            exit_code: 130, 143 or 75.
        """
        super().__init__(what, where, fix)
        self.exit_code = exit_code


class OtherProcessError(RlhfError):
    """Process 0 of the run has raised this error, and prints it."""

    on_every_process = True

    def __init__(self, what: str, where: str, fix: str, exit_code: int) -> None:
        """Build the error from its three lines and its exit code.

        Args:
            what: one sentence, what is wrong.
            where: the place.
            fix: one sentence, what to do about it.
            exit_code: that of process 0.
        """
        super().__init__(what, where, fix)
        self.exit_code = exit_code


def told_once(error: Error) -> Error:
    """Mark an error that every process of a run raises, so that only process 0 prints it."""
    error.on_every_process = True
    return error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or torch on any device, raised this error because memory ran out."""
    messages = ("out of memory", "can't allocate memory")
    from_torch = isinstance(error, RuntimeError) and any(text in str(error) for text in messages)
    return from_torch or isinstance(error, MemoryError)


def out_of_memory(error: BaseException) -> ResourceError:
    """Convert an out-of-memory error of Python or torch into one that says what to do."""
    first_line = str(error).strip().split("\n")[0]
    fix = "lower batch sizes and tokens, or see what fits: rlhf plan with the same options"
    return ResourceError("memory ran out", first_line, fix)


def refused_by_system(error: OSError) -> ResourceError:
    """Convert an error of the operating system into one that says what to do."""
    fix = "check that it exists, that it may be read and written, and that the disk has space"
    message = error.strerror or str(error).strip().split("\n")[0]
    return ResourceError(f"the system refuses: {message}", str(error.filename or ""), fix)


def expected_error(error: BaseException) -> RlhfError | None:
    """Convert an error of the system, or of memory, to one with three lines; None for a bug."""
    if isinstance(error, RlhfError):
        return error
    if is_out_of_memory(error):
        return out_of_memory(error)
    return refused_by_system(error) if isinstance(error, OSError) else None


@contextmanager
def as_usage_error(what: str, where: str | Path, fix: str) -> Iterator[None]:
    """Convert any exception that a library raises inside the block into a usage error.

    Meant for reading files from outside: on a damaged file a library may raise any exception.
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
