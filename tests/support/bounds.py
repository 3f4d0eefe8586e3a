"""Print constraints for pip: the lowest versions that pyproject.toml allows, or none but torch's.

python -m tests.support.bounds lowest >lowest.txt
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
EXTRAS = ("annotate", "data", "heic")  # of users; what only tests need may be any version


def lowest() -> list[str]:
    """Return a constraint `name==version` for each dependency of the package and of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *(text for extra in EXTRAS for text in extras[extra])]
    requirements = [x for x in map(Requirement, texts) if x.name != "torch"]
    return [f"{x.name}=={version}" for x in requirements for version in _bounds(x)]


def _bounds(requirement: Requirement) -> list[str]:
    return [part.version for part in requirement.specifier if part.operator == ">="]


def torch() -> str:
    """Return the constraint of torch, which is the build at hand."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith("torch=="))


if __name__ == "__main__":
    print("\n".join([torch(), *(lowest() if sys.argv[1] == "lowest" else [])]))
