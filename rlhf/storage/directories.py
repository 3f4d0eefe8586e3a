"""Write directories whole or not at all, such as that of a trained model."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from rlhf.errors import ResourceError
from rlhf.storage.atomic import make_directory, remove_tree, temporary_path, unwritable


@contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """Yield a new directory that takes the place of `path` when the block ends without an error.

    If the block fails, or the process is killed, `path` stays as it was. Files get the mode that
    this process gives to new files, whatever the library that wrote them chose.

    Args:
        path: made with its parents if missing; what it held is deleted.

    Raises:
        ResourceError: it cannot be written.
    """
    make_directory(path.parent)
    new, old = temporary_path(path), temporary_path(path)
    try:
        new.mkdir()
        yield new
        flush_directory(new)
        _rename(new, path, old)
    except OSError as error:
        raise unwritable(path, error) from error
    except SafetensorError as error:
        fix = "Choose a directory that exists and has space."
        raise ResourceError("Cannot write a file of weights.", f"{path}: {error}", fix) from error
    finally:
        remove_tree(new)
        remove_tree(old)


def _rename(new: Path, path: Path, old: Path) -> None:
    """Rename `new` to `path`, and what was there to `old`; back again if the system refuses."""
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise


def empty_directory(path: Path) -> None:
    """Delete what a directory holds, but not the directory.

    Raises:
        ResourceError: something cannot be deleted.
    """
    try:
        for item in path.iterdir():
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()
    except OSError as error:
        raise unwritable(path, error) from error


def flush_directory(directory: Path) -> None:
    """Wait until the files in a directory are on the disk, and give each the usual mode.

    Raises:
        OSError: the disk refuses a file.
    """
    mode = _file_mode(directory)
    for parent, _, names in os.walk(directory, topdown=False):
        for name in names:
            Path(parent, name).chmod(mode)
            flush(Path(parent, name))
        flush(Path(parent))


def flush(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk.

    Raises:
        OSError: the disk refuses it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _file_mode(directory: Path) -> int:
    """Return the mode that a new file in a directory gets."""
    probe = temporary_path(directory / "mode")
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    return mode
