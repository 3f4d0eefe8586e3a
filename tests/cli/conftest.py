"""Commands that do nothing, for tests of the command line."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.commands.job import Job


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Job]:
    """The calls of commands, which write one file into their run directory."""
    calls: list[Job] = []

    def command(job: Job) -> dict[str, Any]:
        calls.append(job)
        if job.run_dir != Path():
            (job.run_dir / "result").touch()
        return {"objective/rlhf_reward": float(job.config.seed)}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf.cli.main.load_function", lambda name: command)
    return calls
