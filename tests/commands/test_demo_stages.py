"""A demo that is resumed: stages that ended are taken as they are, the next one goes on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf.commands.demo import _run_stage, _shared_overrides
from rlhf.commands.job import Job
from rlhf.config.schema import Config


def job(run_dir: Path, ran: list[str], *, resume: str = "", fails: str = "") -> Job:
    """A call of the demo whose stages write a summary, unless they fail."""

    def run_command(
        command: str, files: Sequence[str], overrides: Sequence[str]
    ) -> tuple[Path, dict[str, Any]]:
        ran.append(command)
        if command == fails:
            raise KeyboardInterrupt
        directory = run_dir / command
        directory.mkdir()
        (directory / "summary.json").write_text(json.dumps({"of": command}))
        return directory, {"of": command}

    words = ["seed=0", *([f"resume={resume}"] if resume else [])]
    return Job(Config(resume=resume), run_dir, [], words, run_command)


def test_a_resumed_demo_takes_the_stages_that_ended(tmp_path: Path) -> None:
    ran = list[str]()
    stopped = job(tmp_path, ran, fails="reward")
    assert _run_stage(stopped, "collect", [], []) == (tmp_path / "collect", {"of": "collect"})
    with pytest.raises(KeyboardInterrupt):
        _run_stage(stopped, "reward", [], [])
    resumed = job(tmp_path, ran, resume=str(tmp_path))
    for command in ("collect", "reward"):
        assert _run_stage(resumed, command, [], []) == (tmp_path / command, {"of": command})
    assert ran == ["collect", "reward", "reward"]


@pytest.mark.parametrize("resume", ["auto", "runs/demo/0001-20260102-030405"])
def test_a_stage_of_a_resumed_demo_goes_on_with_its_own_run(tmp_path: Path, resume: str) -> None:
    words = _shared_overrides(job(tmp_path, [], resume=resume))
    assert words == ["experiment=demo", "seed=0", "resume=auto"]
    assert _shared_overrides(job(tmp_path, [])) == ["experiment=demo", "seed=0"]
