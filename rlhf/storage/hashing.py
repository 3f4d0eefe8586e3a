"""SHA-256 hashes of tensors, texts and files, in hexadecimal."""

import json
from collections.abc import Iterable
from hashlib import file_digest, sha256
from pathlib import Path

import torch
from torch import Tensor


def hash_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """Hash the names, dtypes, shapes and bytes of tensors.

    Args:
        named: names and tensors of any shape and dtype; their order, strides and device do not
            change the hash.
    """
    digest = sha256()
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # A copy: FSDP cannot free a storage that numpy has seen.
        flat = tensor.detach().to("cpu", copy=True).contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def text_hash(text: str) -> str:
    """Hash a text's UTF-8 bytes."""
    return sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
