"""Read Debian's package `tuxpaint-stamps-default`: installed, unpacked, or a .deb file."""

import lzma
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rlhf.data.images import MAX_BYTES
from rlhf.errors import DataError

PACKAGE = "tuxpaint-stamps-default"
STAMPS, DOCS = "usr/share/tuxpaint/stamps/", f"usr/share/doc/{PACKAGE}/"
INSTALLED = Path("/", STAMPS)

# No dot in a directory and none first in a name: no `..`, and no file in the place of a directory.
_WANTED = re.compile(
    rf"(?:\./)?({STAMPS}(?:[\w-]+/)*[\w-][\w.-]*\.(?:png|txt)|{DOCS}[\w-][\w.-]*)", re.ASCII
)
_MAX_NAME, _MAX_TOTAL = 200, 500_000_000  # characters; bytes of all files together
_MAX_UNPACKED, _MAX_MEMBERS = 1_000_000_000, 50_000  # of data.tar.xz, wanted or not
_MAX_LONG_NAME = 4096
_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60  # ar(5): name 16, …, size 10 at byte 48, "`\n"
_DAMAGE = (OSError, EOFError, ValueError, MemoryError, lzma.LZMAError, tarfile.TarError)


def read_package(source: Path) -> dict[str, bytes]:
    """Read the images, captions and documents of a package, sorted by path.

    Args:
        source: a .deb, the root of an unpacked package, or its `stamps` directory.

    Raises:
        DataError: there is no package, or it is damaged.
    """
    total, files = 0, {}
    try:
        for name, data in _directory_files(source) if source.is_dir() else _deb_files(source):
            files[name], total = data, total + len(data)
            if total > _MAX_TOTAL:
                raise ValueError(f"its files are over {_MAX_TOTAL // 10**6} MB together")
    except FileNotFoundError:
        raise unreadable_package("the package is not there", source) from None
    except _DAMAGE as error:
        raise unreadable_package(getattr(error, "strerror", None) or str(error), source) from error
    return dict(sorted(files.items()))


def unreadable_package(reason: str, source: Path) -> DataError:
    """The error for a package that cannot be read; it says how to get the package."""
    return DataError(
        f"No stamps can be read from here: {reason}.",
        str(source),
        f"Install {PACKAGE}, or `apt-get download {PACKAGE}` "
        "and `rlhf stamps FILE.deb output=DIRECTORY`.",
    )


def _directory_files(source: Path) -> Iterator[tuple[str, bytes]]:
    root = source.resolve()
    stamps = next((f for f in (root / STAMPS, root) if f.is_dir() and f.name == "stamps"), None)
    if stamps is None:
        raise ValueError(f"the directory holds no {STAMPS}")
    for directory, name in ((stamps, STAMPS), (stamps.parent.parent / "doc" / PACKAGE, DOCS)):
        for path in directory.rglob("*"):
            inside = name + path.relative_to(directory).as_posix()
            regular = path.is_file() and not path.is_symlink()
            if regular and _WANTED.fullmatch(inside) and path.stat().st_size <= MAX_BYTES:
                yield inside, path.read_bytes()


def _deb_files(package: Path) -> Iterator[tuple[str, bytes]]:
    """The wanted regular files of a .deb; other members, links and odd names are passed over."""
    if package.exists() and not package.is_file():  # a FIFO would block for ever
        raise ValueError("it is no regular file")
    with package.open("rb") as file:
        _seek_data(file)
        with _BoundedXz(file) as data:
            yield from _tar_files(data)
            while data.read(1 << 20):  # its end holds the checksums
                pass


class _BoundedXz(lzma.LZMAFile):
    """An xz file that stops where it has unpacked to more than any package holds."""

    unpacked = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.unpacked += len(data)
        if self.unpacked > _MAX_UNPACKED:
            raise ValueError(f"it unpacks to over {_MAX_UNPACKED // 10**6} MB")
        return data


class _Member(tarfile.TarInfo):
    """A header of a tar archive; one that stands for a longer header must be as short as dpkg's."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        is_pax = self.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        is_name = self.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if is_pax or (is_name and self.size > _MAX_LONG_NAME):
            raise ValueError("it holds headers that no package has")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member


def _tar_files(data: _BoundedXz) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=data, mode="r|", tarinfo=_Member) as archive:
        for number, member in enumerate(archive):
            if number > _MAX_MEMBERS:
                raise ValueError(f"it holds over {_MAX_MEMBERS:,} files")
            match = _WANTED.fullmatch(member.name) if len(member.name) <= _MAX_NAME else None
            content = archive.extractfile(member) if match and member.isreg() else None
            if match and content and member.size <= MAX_BYTES:
                yield match[1], content.read()


def _seek_data(file: BinaryIO) -> None:
    """Go to the content of data.tar.xz in a .deb, which is an archive of ar(5)."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError("it is no .deb")
    while len(header := file.read(_AR_HEADER)) == _AR_HEADER and header.endswith(b"`\n"):
        name = header[:16].decode("ascii", "replace").rstrip(" /")
        if name == "data.tar.xz":
            return
        if name.startswith("data.tar"):
            raise ValueError(f"it holds {name}; `dpkg -x FILE.deb DIRECTORY`, then name DIRECTORY")
        size = int(header[48:58])
        if size < 0:
            raise ValueError(f"its part {name} has {size} bytes")
        file.seek(size + size % 2, os.SEEK_CUR)
    raise ValueError("it holds no data.tar.xz, or is cut short")
