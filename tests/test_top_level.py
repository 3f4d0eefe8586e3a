"""The repository's first listing shows what a reader looks for, and nothing else."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = {
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "conf",
    "constraints.txt",
    "docs",
    "pyproject.toml",
    "rlhf",
    "tests",
}


def test_the_top_level_holds_these_names_only() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of the repository")
    listing = ["git", "ls-files", "-z", "--", "."]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {file.split("/")[0] for file in files.split("\0") if file}
    assert {name for name in names if not name.startswith(".")} == NAMES
