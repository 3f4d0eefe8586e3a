"""A command line that torchrun starts several times."""

import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.cli.commands import COMMANDS
from rlhf.cli.main import main
from rlhf.cli.processes import takes_processes


@pytest.mark.parametrize("command", [name for name in COMMANDS if not takes_processes(name)])
def test_a_command_refuses_to_be_one_of_several_processes(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([command]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        f"error: {command} runs on one process, and a launcher started 2",
        "where: WORLD_SIZE=2",
    ]
    assert len(lines) == 3


@pytest.mark.parametrize("size", ["1", "", "0", "many"])
def test_one_process_is_not_refused(
    size: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    main(["ppo"])
    assert "WORLD_SIZE" not in capsys.readouterr().err


def test_help_is_for_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["ppo", "--help"]) == main(["--version"]) == 0


@pytest.mark.slow
def test_torchrun_is_refused(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    words = [*torchrun, "-m", "rlhf", "generate"]
    run = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode != 0 and not [*tmp_path.iterdir()]
    assert "where: WORLD_SIZE=2" in run.stderr  # the first to end has the other stopped
