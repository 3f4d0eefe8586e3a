"""Every input of `tests/cases/` gives what its `case.toml` says, through the command line."""

from pathlib import Path

import pytest

from tests.cases.case import HERE, Case, cases, run


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.directory.name)
def test_a_case_gives_what_it_should(case: Case, tiny: Path, tmp_path: Path) -> None:
    for outcome in run(case, tiny / "model", tmp_path / "case"):
        assert not outcome.faults, f"rlhf {outcome.step.command}\n{outcome.printed}"


def test_every_directory_has_its_commands() -> None:
    directories = {path.name for path in HERE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert directories == {case.directory.name for case in cases()}
