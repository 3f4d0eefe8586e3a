"""Debian packages that `rlhf stamps` would unpack for ever."""

import io
import lzma
import tarfile

from rlhf.demo.stamps.package import STAMPS
from tests.support.hostile.place import GB, Place, hostile

_ZEROS = lzma.compress(bytes(64_000_000), preset=0)  # 9 kB


def _part(name: str, content: bytes, size: str = "") -> bytes:
    """A part of an archive of ar(5)."""
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{size or len(content):<10}`\n"
    return header.encode() + content + b"\n" * (len(content) % 2)


def _stamps(place: Place, data: bytes, *before: bytes) -> list[str]:
    package = b"".join((b"!<arch>\n", *before, _part("data.tar.xz", data)))
    return ["stamps", place.write("stamps.deb", package), "output=stamps"]


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@hostile
def deb_with_a_part_of_negative_size(place: Place) -> list[str]:
    return _stamps(place, b"", _part("control.tar.xz", b"", "-60"))


@hostile
def deb_with_a_pax_header_of_8_gb(place: Place) -> list[str]:
    start = lzma.compress(_header("pax", 8 * GB, tarfile.XHDTYPE))
    return _stamps(place, start + _ZEROS * 125)


@hostile
def deb_with_a_pax_header_of_digits(place: Place) -> list[str]:
    """The pattern that looks for `hdrcharset` in it takes the square of their number."""
    size = 2_000_000
    start = _header("pax", size, tarfile.XHDTYPE) + b"1" * size + bytes(-size % 512)
    return _stamps(place, lzma.compress(start + bytes(1024), preset=0))


@hostile
def deb_with_a_name_of_8_gb(place: Place) -> list[str]:
    start = lzma.compress(_header("name", 8 * GB, tarfile.GNUTYPE_LONGNAME))
    return _stamps(place, start + _ZEROS * 125)


@hostile
def deb_with_a_file_of_64_gb(place: Place) -> list[str]:
    return _stamps(place, lzma.compress(_header(f"{STAMPS}a.png", 64 * GB)) + _ZEROS * 1000)


@hostile
def deb_that_goes_on_after_its_end(place: Place) -> list[str]:
    return _stamps(place, lzma.compress(bytes(1024)) + _ZEROS * 1000)


@hostile
def deb_with_a_million_files(place: Place) -> list[str]:
    files = io.BytesIO()
    for number in range(1000):
        files.write(_header(f"{STAMPS}{number}.txt", 0))
    return _stamps(place, lzma.compress(files.getvalue(), preset=0) * 1000)
