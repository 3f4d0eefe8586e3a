"""Serve a page's images as models see them, under names that do not reveal their paths."""

from collections.abc import Iterable
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from rlhf.annotation.pairs import short_hash
from rlhf.data.images import load_image
from rlhf.data.records import resolve_image

CACHE_SIZE = 32  # encoded images in memory


class ServedImages:
    """PNG images by secret name.

    Args:
        image_paths: the image paths of the records.
        root: the directory that they start in.
        secret: the page's token; the names are hashes of it and the path.

    Attributes:
        names: name of each image path.
    """

    def __init__(self, image_paths: Iterable[str], root: Path, secret: str) -> None:
        self.names = {path: short_hash(secret, path) for path in dict.fromkeys(image_paths)}
        self._paths = {name: path for path, name in self.names.items()}
        self._root = root
        self._png = lru_cache(CACHE_SIZE)(self._encode)

    def png(self, name: str) -> bytes:
        """Encode an image as PNG, as `load_image` reads it.

        Raises:
            KeyError: there is no such name.
            DataError: the image can no longer be read.
        """
        return self._png(self._paths[name])

    def _encode(self, image_path: str) -> bytes:
        data = BytesIO()
        load_image(resolve_image(image_path, self._root)).save(data, "PNG", compress_level=1)
        return data.getvalue()
