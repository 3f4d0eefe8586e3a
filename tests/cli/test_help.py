"""The texts of --help."""

import pytest

from rlhf.cli.commands import COMMANDS
from rlhf.cli.main import main


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert COMMANDS[command].help in out and "seed=0" in out


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)
