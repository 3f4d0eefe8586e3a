"""Keep the images of imported datasets in one directory: checked, and named by content."""

import base64
import hashlib
import os
import re
import shutil
from pathlib import Path

from rlhf.data.images import MAX_BYTES, image_digest, load_image
from rlhf.data.records import resolve_image
from rlhf.errors import DataError, ResourceError
from rlhf.storage.atomic import temporary_path

# First bytes of the formats load_image reads.
_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif"}
_MAGIC |= {b"BM": "bmp", b"II": "tif", b"MM": "tif"}
_DATA_URI = re.compile(r"\Adata:[\w/+.-]*;base64,")


class ImageDirectory:
    """A directory that holds each image once, as `<16 hex digits of its SHA-256>.<format>`.

    Args:
        directory: the directory; made when the first image is added.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._results: dict[str, str | DataError] = {}  # by digest: file name, or what is wrong
        self._digests: dict[Path, str] = {}

    def __len__(self) -> int:
        return sum(isinstance(name, str) for name in self._results.values())

    def add(self, image: str | bytes, root: Path) -> str:
        """Check an image and put it into the directory, unless it is there already.

        Args:
            image: its bytes, its base64 text, or its path. A file is hard-linked, or copied
                where links are not possible.
            root: the directory that a path starts in.

        Returns:
            The record's `image_path`, relative to the parent of the directory.

        Raises:
            DataError: `load_image` refuses it, or the path leads out of `root`.
            ResourceError: it cannot be written.
        """
        content = image if isinstance(image, bytes) else _decode_base64(image)
        if content is None:
            return self._add_file(resolve_image(str(image), root))
        return self._add_bytes(content)

    def _add_file(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = image_digest(path)
        return self._add_once(self._digests[path], path)

    def _add_bytes(self, content: bytes) -> str:
        if len(content) > MAX_BYTES:
            raise DataError(f"the embedded image is over {MAX_BYTES // 10**6} MB")
        digest = hashlib.sha256(content).hexdigest()
        if digest in self._results:
            return self._add_once(digest, Path())
        temporary = temporary_path(self.directory / digest[:16])
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            return self._add_once(digest, temporary)
        except OSError as error:
            raise _unwritable(temporary, error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _add_once(self, digest: str, path: Path) -> str:
        """Add a file, or repeat the name or the error of an earlier file of equal content."""
        if digest not in self._results:
            try:
                self._results[digest] = self._check_and_link(digest, path)
            except DataError as error:
                self._results[digest] = error
        result = self._results[digest]
        if isinstance(result, DataError):
            raise result
        return f"{self.directory.name}/{result}"

    def _check_and_link(self, digest: str, path: Path) -> str:
        load_image(path)
        with path.open("rb") as file:
            name = f"{digest[:16]}.{_suffix(file.read(8))}"
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            _link(path, self.directory / name)
        except OSError as error:
            raise _unwritable(self.directory / name, error) from error
        return name


def _link(path: Path, target: Path) -> None:
    """Hard-link a file, or copy it whole or not at all where links are not possible."""
    if target.exists():
        return
    try:
        os.link(path, target)
    except OSError:  # another disk, or a file system or owner that allows no second name
        temporary = temporary_path(target)
        try:
            shutil.copyfile(path, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def _suffix(head: bytes) -> str:
    return next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), "")


def _decode_base64(text: str) -> bytes | None:
    """Decode an image from base64 text; None for a path, even if it looks like base64."""
    try:
        content = base64.b64decode(_DATA_URI.sub("", text, count=1), validate=True)
    except ValueError:
        return None
    return content if len(content) > 32 and _suffix(content[:8]) else None


def _unwritable(path: Path, error: OSError) -> ResourceError:
    fix = "Choose a directory with space that may be written."
    return ResourceError(f"Cannot keep the image: {error.strerror}.", str(path), fix)
