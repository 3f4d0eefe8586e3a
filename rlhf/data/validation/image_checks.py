"""Check the images of record files: each is decoded once, and shared images are reported."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from rlhf.data.images import image_digest, load_image
from rlhf.data.records import Problem, Record, resolve_image
from rlhf.errors import DataError

IMAGE_NAMES = ("images found", "images distinct", "images of earlier files")


class ImageIndex:
    """Remembers every image checked so far, by content.

    Attributes:
        owners: by content hash, the first file that names the image.
        check: returns content hash and fault ("" for none) of an image path below a root.
    """

    def __init__(self) -> None:
        self.owners = dict[str, Path]()
        self._faults = dict[str, str]()
        self.check = cache(self._check_image)

    def _check_image(self, image_path: str, root: Path) -> tuple[str, str]:
        """Return content hash and fault ("" for none) of an image; decode each content once."""
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
    """Checks the images of one file, and counts those that earlier files use as well.

    Args:
        path: the file.
        root: the directory that its image paths start in.
        index: the images of all files; `warnings` adds those of this one.
    """

    def __init__(self, path: Path, root: Path, index: ImageIndex) -> None:
        self._path, self._root, self._index = path, root, index
        self._num_found, self._num_shared = 0, 0
        self._lines = dict[str, int]()  # content hash: first line

    def check(self, record: Record, line: int) -> Record | Problem:
        """Return the record, or the problem with its image."""
        digest, fault = self._index.check(record.image_path, self._root)
        if fault:
            return Problem(str(self._path), line, "image_path", fault)
        self._num_found += 1
        self._lines.setdefault(digest, line)
        return record

    def warnings(self) -> Iterator[Problem]:
        """Warn of images that earlier files use as well, once for each such file."""
        owners = self._index.owners
        shared = dict[Path, list[int]]()
        for digest, line in self._lines.items():
            if owners.setdefault(digest, self._path) != self._path:
                shared.setdefault(owners[digest], []).append(line)
        for owner, lines in shared.items():
            self._num_shared += len(lines)
            message = f"{len(lines)} images are also in {owner}, the first at line {lines[0]}"
            yield Problem(str(self._path), 0, "image_path", message)

    def row(self) -> dict[str, Any]:
        """Return the file's image counts by name; call it after `warnings`, which counts them."""
        return dict(
            zip(IMAGE_NAMES, (self._num_found, len(self._lines), self._num_shared), strict=True)
        )
