"""Memory of a contender's libraries and one model: python -m contenders.loaded NAME FOLDER."""

import importlib
import sys
from pathlib import Path

from contenders.clock import peak_bytes, show
from contenders.shown_llava import load_llava
from contenders.spec import World


def main(name: str, folder: str) -> None:
    importlib.import_module(f"contenders.{name}")
    model = load_llava(World(Path(folder)))
    sum(float(value.float().sum()) for value in model.parameters())  # files are mapped: read them
    show({"peak_bytes": peak_bytes()})


if __name__ == "__main__":
    main(*sys.argv[1:])
