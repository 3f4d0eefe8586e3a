"""JSON of other tools, element by element and within bounds."""

from pathlib import Path

import msgspec
import pytest

from rlhf.data.importers import json_values
from rlhf.data.importers.json_values import decode_values, list_elements


def elements(path: Path, text: str) -> list[bytes]:
    path.write_text(text, encoding="utf-8")
    return list(list_elements(path))


@pytest.mark.parametrize("block", [2, 3, 7, 1000])
def test_elements_are_found_wherever_a_block_ends(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_values, "_BLOCK", block)
    text = ' [ {"a": "],[{\\""} ,12, 3.5e1,[ ] , "é図", null]\n '
    expected = ['{"a": "],[{\\""} ', "12", "3.5e1", "[ ] ", '"é図"', "null"]
    assert elements(tmp_path / "a.json", text) == [x.encode() for x in expected]
    assert elements(tmp_path / "a.json", "\ufeff[\n]") == []


@pytest.mark.parametrize("text", ["[1", "[1,]", "[1}", "[1 2]", "[,1]", "[1]2", '["a', "[{]", "["])
def test_what_is_no_list_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="list"):
        elements(tmp_path / "a.json", text)


def test_an_element_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "_BLOCK", 10)
    monkeypatch.setattr(json_values, "MAX_ELEMENT", 100)
    assert len(elements(tmp_path / "a.json", f'["{"x" * 90}"]')) == 1
    with pytest.raises(ValueError, match="element 2 of the list is no JSON, or over 100"):
        elements(tmp_path / "a.json", f'[1, "{"x" * 999}"]')


def test_values_are_counted_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "MAX_VALUES", 4)
    assert decode_values("[1,2,3,4]", list[int]) == [1, 2, 3, 4]
    with pytest.raises(msgspec.DecodeError, match="over 4 values"):
        decode_values(b"[1,2,3,[]]", list[object])
