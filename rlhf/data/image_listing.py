"""List the images of a folder, and say which of its files are left out."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rlhf.data.images import FORMATS, HAS_HEIC

_HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *({".avif"} if "AVIF" in FORMATS else ()),
        *(_HEIC_SUFFIXES if HAS_HEIC else ()),
    }
)
_DIRECTORIES, _LINKED_DIRECTORIES = "folders", "linked folders"
_HELP = {
    **dict.fromkeys(_HEIC_SUFFIXES, "pip install 'rlhf-llava[heic]'"),
    _DIRECTORIES: "data.recursive=true reads them",
}


class ImageListing(NamedTuple):
    """The files of a folder. Names that begin with a dot count as absent.

    Attributes:
        images: the image files, sorted by path.
        left_out: how many other files there are, by suffix, and how many folders.
    """

    images: list[Path]
    left_out: Counter[str]

    @property
    def has_images(self) -> bool:
        """Whether it has images, also of a format that needs an extra."""
        return bool(self.images) or any(suffix in _HEIC_SUFFIXES for suffix in self.left_out)

    def message(self) -> str:
        """Say by kind and count what is left out, and what reads it; "" if nothing is."""
        kinds = (
            f"{count} {kind}" + (f" ({_HELP[kind]})" if kind in _HELP else "")
            for kind, count in sorted(self.left_out.items())
        )
        return ", ".join(kinds)


def list_images(directory: Path, *, recursive: bool = False) -> ImageListing:
    """List the images of a folder and count its other files.

    Args:
        directory: the folder.
        recursive: also the folders in it; linked ones are counted, not entered.
    """
    images, left_out = list[Path](), Counter[str]()
    for parent, directories, files in _walk(directory):
        if not recursive:
            left_out[_DIRECTORIES] += len(directories)
            directories.clear()
        left_out[_LINKED_DIRECTORIES] += sum((parent / name).is_symlink() for name in directories)
        for path in (parent / name for name in files):
            suffix = path.suffix.lower()
            if suffix in IMAGE_SUFFIXES:
                images.append(path)
            else:
                left_out[suffix or "without suffix"] += 1
    return ImageListing(sorted(images), +left_out)


def _walk(directory: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk down a directory without names that begin with a dot."""
    for parent, directories, files in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith(".")]
        yield Path(parent), directories, [name for name in files if not name.startswith(".")]
