"""Memory of a baseline's libraries and one model.

Run as python -m baselines.base_memory NAME DIRECTORY.
"""

import importlib
import sys
from pathlib import Path

from baselines.clock import peak_bytes, print_report
from baselines.image_lookup import load_llava
from baselines.spec import CaseFiles


def main(name: str, directory: str) -> None:
    importlib.import_module(f"baselines.{name}")
    model = load_llava(CaseFiles(Path(directory)))
    sum(
        float(value.float().sum()) for value in model.parameters()
    )  # weights are memory-mapped: read them
    print_report({"peak_bytes": peak_bytes()})


if __name__ == "__main__":
    main(*sys.argv[1:])
