"""An image's features on disk, for the runs to come."""

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


class Features(NamedTuple):
    """What the projector reads of an image.

    Attributes:
        tiles: [T, I, Dv]; LLaVA-1.5 has one tile.
        size: the image's height and width.
    """

    tiles: Tensor
    size: tuple[int, int]


class FeatureFiles:
    """A file an image, named by what its features follow from: tower, preprocessing, bytes.

    A damaged file is written anew. Several runs may share a directory.

    Args:
        directory: made if missing.
        maker: a hash of tower and preprocessing; the files of another one are never read.
    """

    def __init__(self, directory: Path, maker: str) -> None:
        self.directory = directory / maker[:16]

    def get(self, path: Path, make: Callable[[Path], Features]) -> Features:
        """The image's features, made and written if they are not there.

        Raises:
            ResourceError: they cannot be written.
        """
        file = self.directory / f"{file_hash(path)}.safetensors"
        found = _read(file)
        if found is None:
            found = make(path)
            _write(found, file)
        return found


class FeatureCache:
    """Features by image; beyond the limit those used longest ago go first.

    Args:
        limit: GiB.
        files: where they are kept for later runs too.
    """

    def __init__(self, limit: float = 4.0, files: FeatureFiles | None = None) -> None:
        self.limit, self.bytes, self.files = limit, 0, files
        self._kept: OrderedDict[Path, Features] = OrderedDict()

    def get(self, path: Path, make: Callable[[Path], Features]) -> Features:
        """The image's features, made if they are not kept."""
        if path not in self._kept:
            self.put(path, self.files.get(path, make) if self.files else make(path))
        self._kept.move_to_end(path)
        found = self._kept[path]
        while self.bytes > self.limit * GIB:
            self.bytes -= self._kept.popitem(last=False)[1].tiles.nbytes
        return found

    def put(self, path: Path, features: Features) -> None:
        old = self._kept.pop(path, None)
        self._kept[path] = features
        self.bytes += features.tiles.nbytes - (old.tiles.nbytes if old else 0)

    def __len__(self) -> int:
        return len(self._kept)


def _read(file: Path) -> Features | None:
    """None where the file is missing or not as it was written."""
    try:
        with safe_open(file, framework="pt") as stored:
            told = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        if hash_tensors(tensors.items()) != told.get("sha256"):
            return None
        height, width = tensors["size"].tolist()
        return Features(tensors["tiles"], (height, width))
    except (OSError, SafetensorError, KeyError):
        return None


def _write(features: Features, file: Path) -> None:
    tensors = {"tiles": features.tiles.contiguous(), "size": torch.tensor(features.size)}
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, {"sha256": hash_tensors(tensors.items())})
        part.replace(file)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        raise ResourceError(
            "the features of an image cannot be written",
            f"{file.parent}: {error}",
            "free disk space, or leave model.vision_cache_dir empty",
        ) from error
