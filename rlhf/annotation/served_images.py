"""The images of a page: the very pixels that a model is given, by names that tell nothing."""

from collections.abc import Iterable
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from rlhf.annotation.pairs import short_hash
from rlhf.data.images import load_image
from rlhf.data.records import resolve_image

KEPT = 32  # encoded images in memory


class ServedImages:
    """Images by name.

    Args:
        image_paths: of the records.
        root: the directory that they are below.
        secret: which only those who may see the images know; names follow from it.
    """

    def __init__(self, image_paths: Iterable[str], root: Path, secret: str) -> None:
        self.names = {path: short_hash(secret, path) for path in dict.fromkeys(image_paths)}
        self._paths = {name: path for path, name in self.names.items()}
        self._root = root
        self._png = lru_cache(KEPT)(self._encoded)

    def png(self, name: str) -> bytes:
        """The upright RGB of `load_image`, encoded anew without loss.

        Raises:
            KeyError: there is no such name.
            DataError: the image cannot be read any more.
        """
        return self._png(self._paths[name])

    def _encoded(self, image_path: str) -> bytes:
        data = BytesIO()
        load_image(resolve_image(image_path, self._root)).save(data, "PNG", compress_level=1)
        return data.getvalue()
