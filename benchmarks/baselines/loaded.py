"""Memory of a contender's libraries and one model: python -m baselines.loaded NAME DIRECTORY."""

import importlib
import sys
from pathlib import Path

from baselines.clock import peak_bytes, show
from baselines.shown_llava import load_llava
from baselines.spec import World


def main(name: str, directory: str) -> None:
    importlib.import_module(f"baselines.{name}")
    model = load_llava(World(Path(directory)))
    sum(float(value.float().sum()) for value in model.parameters())  # files are mapped: read them
    show({"peak_bytes": peak_bytes()})


if __name__ == "__main__":
    main(*sys.argv[1:])
