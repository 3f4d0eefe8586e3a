"""Images of imported sets: checked, named by content, and kept in one directory."""

import base64
import hashlib
import os
import re
import shutil
from pathlib import Path

from rlhf.data.images import MAX_BYTES, image_digest, load_image
from rlhf.data.records import resolve_image
from rlhf.errors import DataError, ResourceError

# First bytes of the formats load_image reads.
_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif"}
_MAGIC |= {b"BM": "bmp", b"II": "tif", b"MM": "tif"}
_DATA_URI = re.compile(r"\Adata:[\w/+.-]*;base64,")


class ImageDirectory:
    """A directory that holds each image once, as `<16 hex digits of its SHA-256>.<format>`.

    Args:
        directory: made when the first image is kept.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._kept: dict[str, str | DataError] = {}  # by digest: the name, or what is wrong
        self._digests: dict[Path, str] = {}

    def __len__(self) -> int:
        return sum(isinstance(name, str) for name in self._kept.values())

    def add(self, image: str | bytes, root: Path) -> str:
        """The `image_path` of an image, relative to the directory that holds `directory`.

        Args:
            image: its bytes, its base64 text, or its path below `root`. A file is hard-linked,
                or copied where that cannot be.

        Raises:
            DataError: `load_image` refuses it, or the path leads out of `root`.
            ResourceError: it cannot be written.
        """
        content = image if isinstance(image, bytes) else _decoded(image)
        if content is None:
            return self._from_file(resolve_image(str(image), root))
        return self._from_bytes(content)

    def _from_file(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = image_digest(path)
        return self._once(self._digests[path], path)

    def _from_bytes(self, content: bytes) -> str:
        if len(content) > MAX_BYTES:
            raise DataError(f"the embedded image is over {MAX_BYTES // 10**6} MB")
        digest = hashlib.sha256(content).hexdigest()
        if digest in self._kept:
            return self._once(digest, Path())
        part = self.directory / f".{digest[:16]}.tmp-{os.getpid()}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            return self._once(digest, part)
        except OSError as error:
            raise _full(part, error) from error
        finally:
            part.unlink(missing_ok=True)

    def _once(self, digest: str, path: Path) -> str:
        """What keeping this content has led to, now or before."""
        if digest not in self._kept:
            try:
                self._kept[digest] = self._keep(digest, path)
            except DataError as error:
                self._kept[digest] = error
        kept = self._kept[digest]
        if isinstance(kept, DataError):
            raise kept
        return f"{self.directory.name}/{kept}"

    def _keep(self, digest: str, path: Path) -> str:
        load_image(path)
        with path.open("rb") as file:
            name = f"{digest[:16]}.{_suffix(file.read(8))}"
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            _link(path, self.directory / name)
        except OSError as error:
            raise _full(self.directory / name, error) from error
        return name


def _link(path: Path, target: Path) -> None:
    """The same file under a second name, else a copy that appears whole or not at all."""
    if target.exists():
        return
    try:
        os.link(path, target)
    except OSError:  # another disk, or a file system or owner that allows no second name
        part = target.with_name(f".{target.name}.tmp-{os.getpid()}")
        try:
            shutil.copyfile(path, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def _suffix(head: bytes) -> str:
    return next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), "")


def _decoded(text: str) -> bytes | None:
    """The image that base64 text spells; None for a path, however much like base64."""
    try:
        content = base64.b64decode(_DATA_URI.sub("", text, count=1), validate=True)
    except ValueError:
        return None
    return content if len(content) > 32 and _suffix(content[:8]) else None


def _full(path: Path, error: OSError) -> ResourceError:
    fix = "Choose a folder with space that may be written."
    return ResourceError(f"Cannot keep the image: {error.strerror}.", str(path), fix)
