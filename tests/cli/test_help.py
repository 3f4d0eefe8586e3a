"""The texts of --help."""

import pytest

from rlhf.cli.commands import COMMANDS
from rlhf.cli.main import main


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    output = capsys.readouterr().out
    assert COMMANDS[command].help in output and "seed=0" in output


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    output = capsys.readouterr().out
    assert all(command in output for command in COMMANDS)
