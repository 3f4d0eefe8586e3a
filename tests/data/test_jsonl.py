"""Lines are read with bounded memory, and a key written twice is refused wherever it stands."""

import tracemalloc
from pathlib import Path

import pytest

from rlhf.data import jsonl
from rlhf.data.jsonl import count_lines, json_object, read_lines, starts_with_bom
from rlhf.data.records import Problem, PromptRecord, parse_file, read_records
from rlhf.errors import DataError

PROMPT = b'{"image_path": "a.png", "instruction": "What is it?"}'
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.jsonl"


def problems_of(path: Path) -> list[Problem]:
    return [item for _, item in parse_file(path, PromptRecord) if isinstance(item, Problem)]


def test_bom_blank_lines_crlf_and_missing_last_newline(path: Path) -> None:
    path.write_bytes(BOM + PROMPT + b"\r\n\r\n  \n" + PROMPT)
    assert list(read_lines(path)) == [(1, PROMPT + b"\r\n"), (4, PROMPT)]
    assert len(read_records(path, PromptRecord)) == 2
    assert (starts_with_bom(path), count_lines(path)) == (True, 3)


def test_a_byte_order_mark_inside_a_file_is_no_json(path: Path) -> None:
    path.write_bytes(PROMPT + b"\n" + BOM + PROMPT + b"\n")
    assert [problem.line for problem in problems_of(path)] == [2]
    assert not starts_with_bom(path)


def test_a_file_that_cannot_be_read_has_no_lines(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        assert (starts_with_bom(path), count_lines(path)) == (False, 0)


@pytest.mark.parametrize("size", [100, 101, 102, 202, 203, 500])
def test_a_long_line_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """What follows in the line is never read as lines of its own, though it looks like some."""
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 100)
    long_line = (b" " * 101 + PROMPT * 10)[: size - 1] + b"\n"
    path.write_bytes(PROMPT + b"\n" + long_line + PROMPT + b"\n")
    numbered_lines = list(read_lines(path))
    assert [number for number, _ in numbered_lines if number != 2] == [1, 3]
    assert all(len(line) <= 101 for _, line in numbered_lines)
    problems = problems_of(path)
    expected = [(2, "a line is at most 100 bytes")] if size > 100 else []
    assert [(problem.line, problem.message) for problem in problems] == expected


def test_an_endless_line_takes_bounded_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1_000_000)
    with path.open("wb") as file:
        file.truncate(20_000_000)  # a hole: zeros without end
    tracemalloc.start()
    problems = problems_of(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [problem.line for problem in problems] == [1]
    assert peak < 6_000_000


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b'{"a":1,"a":2}', "a"),
        (b'{"a" : 1, "a"\t:\r2}', "a"),
        (b'{"a":1,"\\u0061":2}', "a"),
        (b'{"a":{"b":1,"c":2},"a":1}', "a"),  # the object that is dropped held keys
        (b'{"a":1,"a":{"b":1,"c":2}}', "a"),
        (b'{"a":[[{"b":1},{"b":1,"b":1}]]}', "b"),
        (b'{"a":{"b":{"c":{"d":1,"d":1}}}}', "d"),
        (b'{"":1,"":1}', '""'),
        (b'{"a":"\\u0022:","a":"x"}', "a"),
        (b'{"a:":1,"a:":1}', "a:"),
        (b'{"a":1,"a":1,"b":":","c":"\\":\\":"}', "a"),
    ],
)
def test_repeated_keys_are_found(line: bytes, key: str) -> None:
    with pytest.raises(DataError, match="twice") as caught:
        json_object(line)
    assert caught.value.where == key


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (b'{"a":"\\"a\\":\\"a\\":"}', {"a": '"a":"a":'}),
        (b'{"a":":","b":"a\\": ","c" :1}', {"a": ":", "b": 'a": ', "c": 1}),
        (b'{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}', {"a": {"a": {"a": 1}}, "b": [{"a": 1}] * 2}),
        (b'{"a":1,"A":2,"a ":3}', {"a": 1, "A": 2, "a ": 3}),
        (b"{}", {}),
    ],
)
def test_a_line_with_similar_keys_is_read(line: bytes, fields: dict[str, object]) -> None:
    assert json_object(line) == fields


def test_the_slow_reader_is_used_only_where_keys_may_repeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rlhf.data.jsonl.json.loads", None)
    json_object(b'{"a":"x: y","meta":{"b":[{"c":1},{"c" : 2}],"d":{}}}')
    with pytest.raises(TypeError):
        json_object(b'{"a":1,"a":1}')


RECORD = PROMPT.decode()
LAYOUTS = {
    "list": (f"[{RECORD}]", "it is a JSON list: jq -c '.[]' file.jsonl"),
    "list over lines": (f"[\n{RECORD},\n{RECORD}\n]", "it is a JSON list"),
    "list in an object": (f'{{"rows": [{RECORD}]}}', "around the list 'rows': jq -c '.rows[]'"),
    "object over lines": (
        '{\n "image_path": "a.png",\n "instruction": "b"\n}',
        "several lines: jq",
    ),
    "table": ("image_path,instruction\na.png,What?\n", "it is a table: rlhf import table"),
    "page": ("<html>Sign in</html>", "it is an HTML page: download the file itself"),
    "pointer": ("version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_of_another_layout_is_one_problem_with_advice(path: Path, name: str) -> None:
    content, advice = LAYOUTS[name]
    path.write_text(content)
    [problem] = problems_of(path)
    assert problem.line == 0 and advice in problem.message
    path.write_bytes(BOM + content.encode())
    assert [x.message for x in problems_of(path)] == [problem.message]


def test_other_encodings_are_named(path: Path) -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        path.write_text(RECORD + "\n" + RECORD, encoding=encoding)
        [problem] = problems_of(path)
        assert problem.message == "it is text in UTF-16: iconv -f UTF-16 -t UTF-8 FILE > NEW"
    path.write_text(RECORD + "\n" + RECORD.replace("it", "é"), encoding="cp1252")
    [problem] = problems_of(path)
    assert problem.line == 2 and "iconv -f WINDOWS-1252 -t UTF-8" in problem.message


def test_one_wrong_line_is_no_other_layout(path: Path) -> None:
    for wrong in ("[1, 2]", "{", '{"a": [1]}', "x"):
        path.write_text(f"{wrong}\n{RECORD}\n{RECORD}\n")
        assert [problem.line for problem in problems_of(path)] == [1], wrong
