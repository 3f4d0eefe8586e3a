"""A few of the command lines of `make fuzz`; and the fuzz sees a traceback where there is one."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from rlhf.cli.commands import COMMANDS
from rlhf.config.option_types import option_types
from tests.fuzz.command_lines import command_lines
from tests.fuzz.harness import run_line
from tests.fuzz.inputs import write_inputs

LINES = 25


@pytest.fixture(scope="module")
def directory(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("fuzz") / "a" / "b" / "work", tiny)


def test_no_command_line_ends_in_a_traceback(directory: Path) -> None:
    outcomes = [run_line(words, directory) for words in islice(command_lines(seed=11), LINES)]
    assert [(outcome.words, outcome.fault) for outcome in outcomes if outcome.fault] == []
    assert len({outcome.end for outcome in outcomes}) > 1


def test_a_traceback_and_a_silent_failure_are_seen(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(job: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("rlhf.cli.main.load_function", lambda name: fails)
    outcome = run_line(["validate"], directory)
    assert outcome.end == "traceback" and outcome.place.endswith("KeyError: 'a bug'")
    monkeypatch.setattr("tests.fuzz.harness.main", lambda words: 3)
    assert run_line(["validate"], directory).fault == "exit 3 with 0 errors"


def test_every_option_of_every_command_comes_before_any_comes_twice() -> None:
    pairs = {(command, name) for command in COMMANDS for name, _ in option_types()}
    lines = islice(command_lines(seed=0), len(pairs))
    assert {(words[0], words[-1].partition("=")[0].lstrip("+~")) for words in lines} == pairs
