"""None of thirty payloads runs: each command ends with a documented code, and says why."""

import pickle  # noqa: TID251 to show that the payloads are live
from pathlib import Path

import pytest

from rlhf.cli.main import main
from tests.security.payloads import PAYLOADS
from tests.security.target import Target, prepare_target

CODES = (0, 2, 3)  # what is only ignored, bad usage, bad data


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_does_not_run(
    name: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "at").mkdir()
    target = prepare_target(tiny, tmp_path / "at", tmp_path / "it-ran")
    monkeypatch.chdir(target.directory)
    monkeypatch.syspath_prepend(str(target.directory))
    code = main(PAYLOADS[name](target))
    assert not target.marker.exists()
    assert code in CODES
    assert (code == 0) == (capsys.readouterr().err.count("error:") == 0)


def test_there_are_thirty_payloads_and_each_could_run(tmp_path: Path) -> None:
    """The marker is written by what the payloads hold, so that its absence says something."""
    assert len(PAYLOADS) >= 30
    target = Target(tmp_path, tmp_path / "it-ran")
    for run in (lambda: exec(target.code, {}), lambda: pickle.loads(target.pickled)):  # noqa: S301
        run()
        assert target.marker.exists()
        target.marker.unlink()


def test_no_value_of_the_environment_gets_into_a_stored_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKEN", "secret-of-the-shell")
    assert main(["sft", "name=${oc.env:TOKEN}"]) == 2
    assert "secret-of-the-shell" not in capsys.readouterr().err
    contents = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"secret-of-the-shell" in content for content in contents)
