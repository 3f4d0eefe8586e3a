"""Caches of vision tower features: in memory, and on disk for later runs."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rlhf.config.schema import GIB
from rlhf.errors import ResourceError
from rlhf.storage.atomic import make_directory, replaced_file
from rlhf.storage.hashing import file_hash, hash_tensors
from rlhf.tracking.console import say


class ImageFeatures(NamedTuple):
    """Output of the vision tower for one image, the input of the projector.

    Attributes:
        tiles: [T, I, Dv], T tiles (LLaVA-1.5 has one) of I tokens.
        size: height and width of the image, pixels.
    """

    tiles: Tensor
    size: tuple[int, int]


Encode = Callable[[Path], ImageFeatures]


class DiskFeatureCache:
    """Features on disk: a directory for each encoder, in it one file for each image content.

    A damaged file is replaced. Several runs may share a directory. Where a file cannot be written,
    a warning says so once, and no more are.

    Args:
        directory: created if missing.
        encoder_hash: hash of all that the features depend on; it names the subdirectory.
    """

    def __init__(self, directory: Path, encoder_hash: str) -> None:
        self.root, self.directory = directory, directory / encoder_hash[:16]
        self._writes = True

    def get(self, path: Path, encode: Encode) -> ImageFeatures:
        """Return the features of the image at `path`; encode and store them if they are missing."""
        file = self.directory / f"{file_hash(path)}.safetensors"
        features = _read(file)
        if features is None:
            features = encode(path)
            self._try_to_write(features, file)
        return features

    def _try_to_write(self, features: ImageFeatures, file: Path) -> None:
        if not self._writes:
            return
        try:
            _write(features, file)
        except ResourceError as error:
            self._writes = False
            fix = "free disk space, or leave model.vision_cache_dir empty"
            say(f"{error.what} {file.parent}: images are encoded anew; {fix}", "yellow")


class FeatureCache:
    """LRU cache of image features in memory, by path.

    Args:
        limit: size of the cache, GiB.

    Attributes:
        disk: cache on disk behind this one; None: memory only.
    """

    def __init__(self, limit: float = 4.0) -> None:
        self.limit, self.bytes = limit, 0
        self.disk: DiskFeatureCache | None = None
        self._entries: OrderedDict[Path, ImageFeatures] = OrderedDict()

    def get(self, path: Path, encode: Encode) -> ImageFeatures:
        """Return the features of the image at `path`; encode them if they are not cached."""
        if path not in self._entries:
            self.put(path, self.disk.get(path, encode) if self.disk else encode(path))
        self._entries.move_to_end(path)
        features = self._entries[path]
        while self.bytes > self.limit * GIB:
            self.bytes -= self._entries.popitem(last=False)[1].tiles.nbytes
        return features

    def put(self, path: Path, features: ImageFeatures) -> None:
        """Set the features of the image at `path`."""
        previous = self._entries.pop(path, None)
        self._entries[path] = features
        self.bytes += features.tiles.nbytes - (previous.tiles.nbytes if previous else 0)

    def __len__(self) -> int:
        return len(self._entries)


def _read(file: Path) -> ImageFeatures | None:
    """The stored features; None if the file is missing or damaged."""
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        if hash_tensors(tensors.items()) != metadata.get("sha256"):
            return None
        height, width = tensors["size"].tolist()
        return ImageFeatures(tensors["tiles"], (height, width))
    except (OSError, SafetensorError, KeyError):
        return None


def _write(features: ImageFeatures, file: Path) -> None:
    """Write the features whole or not at all.

    Raises:
        ResourceError: they cannot be written.
    """
    tensors = {"tiles": features.tiles.contiguous(), "size": torch.tensor(features.size)}
    make_directory(file.parent)
    with replaced_file(file) as stored:
        stored.write(save(tensors, {"sha256": hash_tensors(tensors.items())}))
