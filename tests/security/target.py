"""The directory that a payload is written to, and the list that payloads register in."""

import json
import os
import pickle  # noqa: TID251 to make what must never be read
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Target:
    """The directory that a payload is written to.

    Attributes:
        marker: the file whose existence shows that something ran.
    """

    directory: Path
    marker: Path

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def code(self) -> str:
        """Python that shows it ran."""
        return f"open({str(self.marker)!r}, 'w').close()"

    @property
    def pickled(self) -> bytes:
        """A pickle that shows it was read."""
        return pickle.dumps(_Runs(f"touch {self.marker}"))

    def merge(self, file: str, **values: Any) -> None:
        """Add values to a JSON file."""
        path = self.directory / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def write(self, file: str, content: str | bytes) -> Path:
        """Write a file, its directories made."""
        path = self.directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


class _Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


Payload = Callable[[Target], list[str]]
PAYLOADS: dict[str, Payload] = {}
GENERATE = ["generate", "model", "picture.png", "sampling.max_new_tokens=2"]


def payload(make: Payload) -> Payload:
    """Register it in PAYLOADS under its name."""
    PAYLOADS[make.__name__] = make
    return make


def prepare_target(tiny: Path, directory: Path, marker: Path) -> Target:
    """A target with a model and an image."""
    shutil.copytree(tiny / "model", directory / "model")
    shutil.copy(tiny / "pictures" / "00000.png", directory / "picture.png")
    weights = directory / "model" / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    return Target(directory, marker)
