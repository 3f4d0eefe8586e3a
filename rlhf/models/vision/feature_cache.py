"""Caches of vision tower features: in memory, and on disk for later runs."""

import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlhf.config.schema import GIB
from rlhf.errors import ResourceError
from rlhf.storage.hashing import file_hash, hash_tensors


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

    A damaged file is replaced. Several runs may share a directory.

    Args:
        directory: created if missing.
        encoder_hash: hash of all that the features depend on; it names the subdirectory.
    """

    def __init__(self, directory: Path, encoder_hash: str) -> None:
        self.root, self.directory = directory, directory / encoder_hash[:16]

    def get(self, path: Path, encode: Encode) -> ImageFeatures:
        """Return the features of the image at `path`; encode and store them if they are missing.

        Raises:
            ResourceError: the features cannot be written.
        """
        file = self.directory / f"{file_hash(path)}.safetensors"
        features = _read(file)
        if features is None:
            features = encode(path)
            _write(features, file)
        return features


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
    """Write the features atomically: under a temporary name, then renamed."""
    tensors = {"tiles": features.tiles.contiguous(), "size": torch.tensor(features.size)}
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, {"sha256": hash_tensors(tensors.items())})
        temporary.replace(file)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise ResourceError(
            "the features of an image cannot be written",
            f"{file.parent}: {error}",
            "free disk space, or leave model.vision_cache_dir empty",
        ) from error
