"""Tell what a file is that is not what it was taken for, and what helps."""

from typing import NamedTuple

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body")


class FileKind(NamedTuple):
    """What a file is.

    Attributes:
        name: with its article, as in "it is {name}".
        fix: what to do to get the file that was meant.
    """

    name: str
    fix: str


_LFS = FileKind("a Git LFS pointer, not the file it stands for", "run `git lfs pull` there")
_PAGE = FileKind(
    "an HTML page", "download the file itself: the link led to a web page, perhaps to a login"
)
HEIC = FileKind("a HEIC image", "pip install 'rlhf-llava[heic]', or convert it to JPEG")
_AVIF = FileKind("an AVIF image that this Pillow does not read", "convert it to JPEG or PNG")
_VIDEO = FileKind("a video", "give single images of it")
_MAC = FileKind(
    "what macOS keeps beside a file, not the file", "give the file without ._ in its name"
)
_UTF_16 = FileKind("text in UTF-16", "iconv -f UTF-16 -t UTF-8 FILE > NEW")
_BEGINNINGS = {
    b"version https://git-lfs": _LFS,
    b"\0\x05\x16\x07": _MAC,
    b"%PDF": FileKind("a PDF", "export its pages as images"),
    b"<svg": FileKind("an SVG drawing", "export it as PNG"),
    b"<?xml": FileKind("XML", "export it as PNG, if it is a drawing"),
    b"PK\3\4": FileKind(
        "a zip archive or an Excel workbook", "unpack it: unzip FILE, or save it as CSV"
    ),
    b"\x1f\x8b": FileKind("a gzip archive", "unpack it: gunzip FILE"),
    b"\x28\xb5\x2f\xfd": FileKind("a zstd archive", "unpack it: unzstd FILE"),
    b"ARROW1": FileKind("an Arrow file", "save it with Dataset.to_parquet"),
    b"PAR1": FileKind("a parquet file", "import it: rlhf import SOURCE FILE output=DIRECTORY"),
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{", b"[\0", b"\0["), _UTF_16),
}


def kind_of(head: bytes) -> FileKind | None:
    """Tell a file that is often taken for another one by its first bytes; None for others.

    Args:
        head: the first bytes, 64 or more where there are as many.
    """
    if not head:
        return FileKind("an empty file", "download or export it again")
    if head[4:8] == b"ftyp":
        return _of_brand(head[8:12])
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:20].lower().startswith(_HTML):
        return _PAGE
    return next((kind for start, kind in _BEGINNINGS.items() if text.startswith(start)), None)


def _of_brand(brand: bytes) -> FileKind:
    """Tell images and videos apart that share a container (ISO/IEC 14496-12, 4.3)."""
    if brand in _AVIF_BRANDS:
        return _AVIF
    return HEIC if brand in _HEIC_BRANDS else _VIDEO
