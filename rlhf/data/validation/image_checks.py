"""Images of files of records, told apart by content: each is decoded once, leaks are found."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from rlhf.data.images import image_digest, load_image
from rlhf.data.records import Problem, Record, resolve_image
from rlhf.errors import DataError

IMAGE_NAMES = ("images found", "images distinct", "images of earlier files")


class ImageIndex:
    """What is known of every image so far: fault by content, and the first file that names it."""

    def __init__(self) -> None:
        self.owners = dict[str, Path]()
        self._faults = dict[str, str]()
        self.check = cache(self._check_image)

    def _check_image(self, image_path: str, root: Path) -> tuple[str, str]:
        """Content hash and fault ("" for none) of an image; each content is decoded once."""
        digest = ""
        try:
            path = resolve_image(image_path, root)
            digest = image_digest(path)
            if digest not in self._faults:
                self._faults[digest] = ""
                load_image(path)
        except DataError as error:
            self._faults[digest] = error.what
        return digest, self._faults[digest]


class FileImages:
    """The images that one file names.

    Args:
        root: where their paths start.
        album: the images of all files; takes this one's in at `warnings`.
    """

    def __init__(self, path: Path, root: Path, index: ImageIndex) -> None:
        self._path, self._root, self._album = path, root, index
        self._found, self._shared = 0, 0
        self._lines = dict[str, int]()  # content hash: first line

    def check(self, record: Record, line: int) -> Record | Problem:
        """The record, or what is wrong with its image."""
        digest, fault = self._album.check(record.image_path, self._root)
        if fault:
            return Problem(str(self._path), line, "image_path", fault)
        self._found += 1
        self._lines.setdefault(digest, line)
        return record

    def warnings(self) -> Iterator[Problem]:
        """Images that earlier files name as well, a warning for each such file."""
        owners = self._album.owners
        shared = dict[Path, list[int]]()
        for digest, line in self._lines.items():
            if owners.setdefault(digest, self._path) != self._path:
                shared.setdefault(owners[digest], []).append(line)
        for owner, lines in shared.items():
            self._shared += len(lines)
            said = f"{len(lines)} images are also in {owner}, the first at line {lines[0]}"
            yield Problem(str(self._path), 0, "image_path", said)

    def row(self) -> dict[str, Any]:
        """The named values of the file, as in the table; to be taken after `warnings`."""
        return dict(zip(IMAGE_NAMES, (self._found, len(self._lines), self._shared), strict=True))
