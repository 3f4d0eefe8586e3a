"""Write files whole or not at all: replace one in a single step, or append one line to it.

A crash, a full disk or a kill at any instant leaves the old content or the new one.
"""

import errno
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape as glob_escape
from pathlib import Path
from typing import BinaryIO

from rlhf.errors import ResourceError, UsageError
from rlhf.storage.bounded import read_bytes

MAX_LOG_BYTES = 500_000_000  # of an annotation log: 500,000 judgments
STALE_SECONDS = 24 * 3600  # age of a temporary file after which nobody writes it any more


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends without an error.

    If the block fails, `path` stays as it was and the new file is deleted. An existing file's mode
    is kept, and where `path` is a symbolic link the file behind it is replaced.

    Raises:
        ResourceError: it cannot be written.
        UsageError: it is a device, a pipe or a socket.
    """
    target = output_file(path)
    temporary = temporary_path(target)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        temporary.replace(target)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # it was renamed, or `path.parent` is no directory
            temporary.unlink()


def replace_text(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text in UTF-8 as the whole content of a file; see `replaced_file`.

    Args:
        path: the file.
        text: its new content.
        errors: how characters are written that UTF-8 does not have; see `str.encode`.

    Raises:
        ResourceError: it cannot be written; the file is as before.
    """
    with replaced_file(path) as file:
        file.write(text.encode(errors=errors))


def output_file(path: Path) -> Path:
    """Return the file that is written under a path: where that is a symbolic link, its target.

    Raises:
        UsageError: a device, a pipe or a socket is there, which cannot be replaced.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.exists() and not (target.is_file() or target.is_dir()):
        fix = "name a file; a pipe or a device is read from a finished file"
        raise UsageError("an output is written whole, to a file", str(path), fix)
    return target


def temporary_path(path: Path) -> Path:
    """Return a hidden path beside another one that no process on any machine uses.

    Temporary files and directories of that path which are a day old are left over, and deleted.
    """
    with suppress(OSError):
        for old in path.parent.glob(f".{glob_escape(path.name)}.tmp-*"):
            if time.time() - old.lstat().st_mtime > STALE_SECONDS:
                remove_tree(old)
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(6)}")


def remove_tree(path: Path) -> None:
    """Delete a file or a directory with all that is in it, as far as the system allows."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


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
        UsageError: it is a device, a pipe or a socket.
    """
    target = output_file(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}."):
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
        data = read_bytes(path, MAX_LOG_BYTES) if path.is_file() else b""
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
