"""The page's images, under names that do not reveal their paths."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from rlhf.annotation.pairs import short_hash
from rlhf.data.images import load_image
from rlhf.data.records import resolve_image

CACHE_SIZE = 256  # encoded images in memory
MAX_SIDE = 1600  # pixels of a photograph as it is sent
EXACT_PIXELS = 512 * 512  # images of at most so many pixels are sent unchanged
JPEG_QUALITY = 92
Kind = Literal["whole", "seen"]


class EncodedImage(NamedTuple):
    """A file as the browser gets it."""

    data: bytes
    media_type: str


class ServedImages:
    """Images by secret name: as they are, and as the model sees them.

    Args:
        image_paths: the image paths of the records.
        root: the directory that they start in.
        secret: the page's token; the names are hashes of it and the path.
        as_seen: returns what a model sees of an image, None if that is all of it; None: no model
            is known.

    Attributes:
        names: name of each image path.
        shows_seen: whether images can be asked for as a model sees them.
    """

    def __init__(
        self,
        image_paths: Iterable[str],
        root: Path,
        secret: str,
        as_seen: Callable[[Image.Image], Image.Image | None] | None = None,
    ) -> None:
        self.names = {path: short_hash(secret, path) for path in dict.fromkeys(image_paths)}
        self.shows_seen = as_seen is not None
        self._paths = {name: path for path, name in self.names.items()}
        self._root, self._as_seen = root, as_seen
        self._encoded = lru_cache(CACHE_SIZE)(self._encode)

    def encoded(self, name: str, kind: Kind = "whole") -> EncodedImage:
        """Encode an image: small ones as PNG, unchanged, photographs as JPEG of at most MAX_SIDE.

        Args:
            name: one of `names`.
            kind: `whole`, as `load_image` reads it, or `seen`, as the model sees it.

        Raises:
            KeyError: there is no such name.
            DataError: the image can no longer be read.
        """
        return self._encoded(self._paths[name], kind)

    def _encode(self, image_path: str, kind: Kind) -> EncodedImage:
        image = load_image(resolve_image(image_path, self._root))
        if kind == "seen" and self._as_seen:
            image = self._as_seen(image) or image
        data = BytesIO()
        if image.width * image.height <= EXACT_PIXELS:
            image.save(data, "PNG", compress_level=1)
            return EncodedImage(data.getvalue(), "image/png")
        image.thumbnail((MAX_SIDE, MAX_SIDE), reducing_gap=2.0)
        image.save(data, "JPEG", quality=JPEG_QUALITY)
        return EncodedImage(data.getvalue(), "image/jpeg")
