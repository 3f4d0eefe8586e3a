"""Write files whole or not at all: replace one in a single step, or append one line to it.

A crash, a full disk or a kill at any instant leaves the old content or the new one.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rlhf.errors import ResourceError


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends without an error.

    If the block fails, `path` stays as it was and the new file is deleted.

    Raises:
        ResourceError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # it was renamed, or `path.parent` is no directory
            temporary.unlink()


def make_directory(path: Path) -> Path:
    """Make a directory with its parents, if it is missing, and return it.

    Raises:
        ResourceError: it cannot be made, or is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before the work whose result it will hold.

    Raises:
        ResourceError: its directory is missing or may not be written, or it is a directory.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file, made when missing; the line is on the disk when this returns.

    Args:
        path: the file.
        line: the bytes to append, with the newline.

    Raises:
        ResourceError: the line was not written, and the file is as before.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            write_whole(handle, line)
        finally:
            os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error


def set_torn_line_aside(path: Path) -> None:
    """Move a last line without a newline, which a crash cut short, to `<path>.torn`.

    Raises:
        ResourceError: the file cannot be changed.
    """
    try:
        data = path.read_bytes() if path.is_file() else b""
        end = data.rfind(b"\n") + 1
        if end < len(data):
            append_line(Path(f"{path}.torn"), data[end:] + b"\n")
            os.truncate(path, end)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> ResourceError:
    """Return the error to raise for a file that cannot be written."""
    fix = "Choose a directory that exists and has space."
    return ResourceError(f"Cannot write: {error.strerror}.", str(path), fix)


def write_whole(handle: int, line: bytes, *, sync: bool = True) -> None:
    """Write a line at the end of an open file, or leave the file as it was.

    Args:
        handle: file descriptor, opened for appending.
        line: the bytes to write.
        sync: whether to wait until the bytes are on the disk.

    Raises:
        OSError: the line does not fit, or the disk refuses it.
    """
    size_before = os.fstat(handle).st_size
    try:
        if os.write(handle, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if sync:
            os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size_before)
        raise
