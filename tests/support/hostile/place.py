"""The directory that a hostile file is written to, and the list that hostile files register in."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GB = 1_000_000_000


@dataclass(frozen=True)
class Place:
    """The directory that a command runs in, with the directory of a tiny model to copy."""

    directory: Path
    tiny: Path

    def write(self, file: str, content: str | bytes) -> str:
        """Write a file, its directories made; return its name."""
        path = self.directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def write_sparse(self, file: str, start: str | bytes, size: int = 8 * GB) -> str:
        """Write a file that begins so and goes on with a hole; return its name."""
        self.write(file, start)
        with (self.directory / file).open("r+b") as sparse:
            sparse.truncate(size)
        return file

    def model(self, **files: dict[str, Any]) -> Path:
        """Copy the tiny model and an image, with values of its JSON files replaced."""
        model = self.directory / "model"
        shutil.copytree(self.tiny / "model", model)
        shutil.copy(self.tiny / "pictures" / "00000.png", self.directory / "image.png")
        for name, values in files.items():
            path = model / f"{name}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return model


Make = Callable[[Place], list[str]]
HOSTILE: dict[str, Make] = {}
GENERATE = ["generate", "model", "image.png", "sampling.max_new_tokens=2", "device=cpu"]


def hostile(make: Make) -> Make:
    """Register a function that writes a hostile file and returns the command line that reads it."""
    HOSTILE[make.__name__] = make
    return make
