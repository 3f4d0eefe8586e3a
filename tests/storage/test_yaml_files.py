"""YAML files that are read as data, and those that would grow."""

from pathlib import Path

import pytest

from rlhf.errors import DataError
from rlhf.storage import yaml_files
from rlhf.storage.yaml_files import read_yaml


def read(path: Path, text: str) -> object:
    path.write_text(text)
    return read_yaml(path)


def test_plain_yaml_and_a_few_aliases_are_read(tmp_path: Path) -> None:
    text = "a: &x {n: 1}\nb: *x\nc: ['*', '&']\n"
    assert read(tmp_path / "a.yaml", text) == {"a": {"n": 1}, "b": {"n": 1}, "c": ["*", "&"]}


def test_aliases_count_as_what_they_stand_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mapping, 2 keys, and 2 times a list of 3 texts: 1 + 2 + 2 * 4 = 11 nodes."""
    text = "a: &x [p, q, r]\nb: *x\n"
    monkeypatch.setattr(yaml_files, "_MAX_NODES", 11)
    assert read(tmp_path / "a.yaml", text) == {"a": ["p", "q", "r"], "b": ["p", "q", "r"]}
    monkeypatch.setattr(yaml_files, "_MAX_NODES", 10)
    with pytest.raises(DataError, match="aliases stand for over 10 values"):
        read(tmp_path / "a.yaml", text)


@pytest.mark.parametrize(
    "text", ["a: [", "a: " + "[\n" * 5000, "a: 1" + "1" * 5000, "a: &x [*x]", "a: " + "x" * 20_001]
)
def test_other_yaml_is_refused_with_its_path(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.yaml", text)
    assert str(tmp_path / "a.yaml") in error.value.where
    assert error.value.fix
