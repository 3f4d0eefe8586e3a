"""Bounds on what files that others wrote may take: their size, and memory while they are read."""

import resource
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlhf.errors import DataError


def check_size(path: Path, limit: int) -> None:
    """Refuse a file that is over a limit, or no regular file, which might never end.

    Args:
        path: the file.
        limit: bytes that it may have.

    Raises:
        DataError: it is over the limit, or a pipe or device.
        OSError: it is not there.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError("this is no regular file", str(path), "give a file")
    if status.st_size > limit:
        raise DataError(
            f"the file has {status.st_size:,} bytes, at most {limit:,} are read",
            str(path),
            "see what is in it: no file of this kind needs so many; download or write it again",
        )


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a whole file of bounded size.

    Args:
        path: the file.
        limit: bytes that it may have.

    Raises:
        DataError: it is over the limit, or a pipe or device.
        OSError: it is not there, or cannot be read.
    """
    check_size(path, limit)
    return path.read_bytes()


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Let this process have so much more memory inside the block; MemoryError beyond.

    For a library that gives up cleanly where it gets no memory. Only Linux has such a limit.

    Args:
        more: bytes, added to what the process has mapped already.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped_bytes() + more
    bounds = [value for value in (limit, soft, hard) if value != resource.RLIM_INFINITY]
    try:
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def mapped_bytes() -> int:
    """Return the size of this process's address space; 0 where the system does not say it."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return 0
