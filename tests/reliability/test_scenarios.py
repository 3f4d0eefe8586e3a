"""A part of each scenario; `make reliability` runs all of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NAMES = [
    "kills",
    "command_kills",
    "crash_points",
    "damage",
    "signals",
    "resumes",
    "not_finite",
    "memory",
    "full_disk",
    "starts",
    "soak",
    "process_kills",
    "process_signals",
    "process_exits",
    "records",
    "images",
    "prompts",
]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The metrics of all scenarios, run by a process that forks before any gradient."""
    file = tmp_path_factory.mktemp("reliability") / "rows.json"
    command = [sys.executable, "-m", "tests.reliability.table", "--part", str(file)]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    results: dict[str, Any] = json.loads(file.read_text())
    return results


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_scenario_at_reduced_count(name: str, rows: dict[str, Any]) -> None:
    assert sorted(rows) == sorted(NAMES)
    assert rows[name]["trials"] > 0
    assert not rows[name]["losses"]
