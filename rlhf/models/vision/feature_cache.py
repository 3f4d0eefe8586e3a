"""An image's features on disk, for the runs to come."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

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
