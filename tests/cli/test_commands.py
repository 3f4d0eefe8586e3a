"""The table of commands: a row and a module are all that a new one needs."""

from pathlib import Path

import pytest

import rlhf.commands
from rlhf.cli.commands import COMMANDS, Command, import_function
from rlhf.cli.main import main
from rlhf.config.option_types import defaults
from rlhf.config.schema import Config, Section

TOY = """
def toy(job):
    return {"files": [str(file) for file in job.files], "scorer": job.scorer}
"""


def test_a_new_command_is_one_row_and_one_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(rlhf.commands, "__path__", [*rlhf.commands.__path__, str(tmp_path)])
    row = Command(
        function="toy:toy",
        help="say what it was given",
        usage="rlhf toy WORD",
        sections=("plan",),
        takes_scorer=True,
    )
    monkeypatch.setitem(COMMANDS, "toy", row)
    assert main(["--help"]) == 0 and "say what it was given" in capsys.readouterr().out
    assert main(["toy", "--help"]) == 0 and "plan.device=" in capsys.readouterr().out
    assert main(["toy", "word", "--scorer=a.py:f", "--json"]) == 0
    assert capsys.readouterr().out == '{"files": ["word"], "scorer": "a.py:f"}\n'
    monkeypatch.setitem(COMMANDS, "toy", Command(**{**vars(row), "has_run_dir": True}))
    assert main(["toy", f"output_dir={tmp_path / 'runs'}", "--json"]) == 0
    assert len([*tmp_path.rglob("summary.json")]) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_row_names_a_function_and_sections_that_exist(command: str) -> None:
    assert callable(import_function(command))
    sections = {name for name, value in defaults().items() if isinstance(value, dict)}
    assert sections.issuperset(COMMANDS[command].sections)


def test_every_section_is_in_the_help_of_a_command() -> None:
    listed = {section for command in COMMANDS.values() for section in command.sections}
    assert listed == {name for name in defaults() if isinstance(getattr(Config(), name), Section)}


def test_a_scorer_has_its_options_in_the_help() -> None:
    for name, command in COMMANDS.items():
        assert command.takes_scorer == ("scorer" in command.sections), name


def test_every_command_says_what_comes_next() -> None:
    without = {name for name, command in COMMANDS.items() if not command.next_step}
    assert without == {"demo", "collect", "smol"}  # they print it themselves, with their paths
    values = {"run": "RUN", "model": "MODEL", "output": "OUTPUT", "reward": "reward.path=RUN"}
    assert all(command.next_step.format(**values) is not None for command in COMMANDS.values())
