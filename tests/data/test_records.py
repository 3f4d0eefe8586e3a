"""Every kind of wrong line is named by file, line and field; only DataError is raised."""

import json
import os
from pathlib import Path

import pytest

from rlhf.data.records import (
    CandidatesRecord,
    DemonstrationRecord,
    PreferenceRecord,
    Problem,
    PromptRecord,
    chosen,
    parse_file,
    read_records,
    record_kind,
    rejected,
    resolve_image,
    responses,
    write_records,
)
from rlhf.errors import DataError

PROMPT = b'{"image_path": "a.png", "instruction": "What is it?"}'
PAIR = (
    b'{"image_path": "a.png", "instruction": "What?", "response_a": "A cat.",'
    b' "response_b": "A dog.", "preference": "response_b"}'
)


def write(tmp_path: Path, *lines: bytes) -> Path:
    path = tmp_path / "file.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def pair_with(**changes: object) -> bytes:
    return json.dumps({**json.loads(PAIR), **changes}).encode()


def fault(path: Path, kind: type = PromptRecord) -> tuple[str, str]:
    """Place without the file's directory, and message, of the first problem."""
    with pytest.raises(DataError) as caught:
        read_records(path, kind)
    assert caught.value.fix and caught.value.exit_code == 3
    return caught.value.where.replace(str(path), "file"), caught.value.what


def test_reads_every_kind(tmp_path: Path) -> None:
    assert read_records(write(tmp_path, PROMPT), PromptRecord) == [
        PromptRecord("a.png", "What is it?", id="", meta={})
    ]
    line = b'{"instruction":"What?","image_path":"a.png","response":"A cat.","meta":{"k":[1]}}'
    assert read_records(write(tmp_path, line), DemonstrationRecord) == [
        DemonstrationRecord("a.png", "What?", "A cat.", meta={"k": [1]})
    ]
    line = b'{"image_path":"a.png","instruction":"What?","responses":["x","y","x"],"model":"m"}'
    assert read_records(write(tmp_path, line), CandidatesRecord) == [
        CandidatesRecord("a.png", "What?", ["x", "y", "x"], model="m", sampling={})
    ]
    line = pair_with(seconds=2, annotator="me", schema_version=1)
    assert read_records(write(tmp_path, line), PreferenceRecord) == [
        PreferenceRecord(
            "a.png", "What?", "A cat.", "A dog.", "response_b", annotator="me", seconds=2.0
        )
    ]


def test_line_separator_inside_a_text_is_text(tmp_path: Path) -> None:
    line = '{"image_path": "a.png", "instruction": "one\u2028two\x85three"}'.encode()
    assert read_records(write(tmp_path, line), PromptRecord)[0].instruction.startswith("one\u2028")


@pytest.mark.parametrize(
    ("line", "location", "message"),
    [
        (b'{"image_path": "a.png"', "file:2", "one JSON object"),
        (b'{"image_path": "a.png"} x', "file:2", "one JSON object"),
        (b"[1, 2]", "file:2", "got list"),
        (b"null", "file:2", "got NoneType"),
        (b'"text"', "file:2", "got str"),
        (b"\xff\xfe{", "file:2", "UTF-8"),
        (b'{"image_path": "a\xff", "instruction": "b"}', "file:2", "UTF-8"),
        (b'{"image_path": "a\x00", "instruction": "b"}', "file:2", "NUL"),
        (b'{"image_path": "a\\u0000", "instruction": "b"}', "file:2:image_path", "NUL"),
        (b'{"image_path": "a", "instruction": "\\ud800"}', "file:2", "JSON"),
        (b'{"image_path": "a", "instruction": "b", "meta": {"x": NaN}}', "file:2", "JSON"),
        (b"[" * 5000, "file:2", "one JSON object"),
        (b'{"instruction": "b"}', "file:2:image_path", "missing"),
        (b'{"image_path": "a"}', "file:2:instruction", "missing"),
        (b'{"image_path": "a", "instruction": ""}', "file:2:instruction", "empty"),
        (b'{"image_path": " \\n\\t", "instruction": "b"}', "file:2:image_path", "empty"),
        (b'{"image_path": "a", "instruction": 3}', "file:2:instruction", "got `int`"),
        (b'{"image_path": null, "instruction": "b"}', "file:2:image_path", "got `null`"),
        (b'{"image_path": "a", "instruction": "b", "id": 7}', "file:2:id", "got `int`"),
        (b'{"image_path": "a", "instruction": "b", "meta": []}', "file:2:meta", "got `array`"),
        (
            b'{"image_path": "a", "instruction": "b", "instructoin": "c"}',
            "file:2:instructoin",
            "did you mean instruction?",
        ),
        (b'{"image_path": "a", "instruction": "b", "zzz": 1}', "file:2:zzz", "unknown field"),
        (b'{"image_path": "a", "instruction": "b", "\\u001b[2J": 1}', "file:2:\\u001b[2J", "unkn"),
        (b'{"image_path": "a", "instruction": "b", "id": "x", "id": "x"}', "file:2:id", "twice"),
        (b'{"image_path": "a", "instruction": "b", "\\u0069d": "x", "id": ""}', "file:2:id", "twi"),
        (b'{"image_path": "a", "instruction": "b", "meta": {"k": 1, "k": 2}}', "file:2:k", "twice"),
    ],
)
def test_wrong_prompt_lines(tmp_path: Path, line: bytes, location: str, message: str) -> None:
    found_location, found_message = fault(write(tmp_path, PROMPT, line))
    assert found_location == location
    assert message in found_message


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"preference": 1}, "preference", "ambiguous"),
        ({"preference": 0}, "preference", "ambiguous"),
        ({"preference": True}, "preference", "ambiguous"),
        ({"preference": None}, "preference", "ambiguous"),
        ({"preference": "1"}, "preference", "write response_a, response_b or tie"),
        ({"preference": ["a"]}, "preference", "write response_a"),
        ({"preference": "left"}, "preference", "write response_a"),
        ({"preference": "Tie"}, "preference", "write response_a"),
        ({"preference": ""}, "preference", "write response_a"),
        ({"preference": "tie\n"}, "preference", "write response_a"),
        ({"response_b": "A cat. "}, "preference", "only be a tie"),
        ({"response_a": "\nA dog."}, "preference", "only be a tie"),
        ({"response_b": "  "}, "response_b", "empty"),
        ({"seconds": "5"}, "seconds", "got `str`"),
        ({"schema_version": 2}, "schema_version", "2"),
    ],
)
def test_wrong_pairs(tmp_path: Path, changes: dict[str, object], field: str, message: str) -> None:
    location, found_message = fault(write(tmp_path, pair_with(**changes)), PreferenceRecord)
    assert location == f"file:1:{field}"
    assert message in found_message


def test_missing_label(tmp_path: Path) -> None:
    line = PAIR.replace(b', "preference": "response_b"', b"")
    assert fault(write(tmp_path, line), PreferenceRecord)[0] == "file:1:preference"


@pytest.mark.parametrize("responses", [[], ["one"], ["one", ""], ["one", 2], "one"])
def test_wrong_candidates(tmp_path: Path, responses: object) -> None:
    line = json.dumps({"image_path": "a", "instruction": "b", "responses": responses}).encode()
    assert fault(write(tmp_path, line), CandidatesRecord)[0] == "file:1:responses"


@pytest.mark.parametrize(
    ("label", "preference"),
    [("a", "response_a"), ("A", "response_a"), ("response_a", "response_a"), ("tie", "tie")]
    + [("b", "response_b"), ("B", "response_b"), ("response_b", "response_b")],
)
def test_labels(tmp_path: Path, label: str, preference: str) -> None:
    (record,) = read_records(write(tmp_path, pair_with(preference=label)), PreferenceRecord)
    assert record.preference == preference


def test_equal_responses_may_tie(tmp_path: Path) -> None:
    line = pair_with(response_b="A cat.", preference="tie")
    assert len(read_records(write(tmp_path, line), PreferenceRecord)) == 1


def test_chosen_and_rejected() -> None:
    pair = PreferenceRecord("a.png", "What?", "A cat.", "A dog.", "response_b")
    assert (chosen(pair), rejected(pair)) == ("A dog.", "A cat.")
    pair = PreferenceRecord("a.png", "What?", "A cat.", "A dog.", "response_a")
    assert (chosen(pair), rejected(pair)) == ("A cat.", "A dog.")
    tie = PreferenceRecord("a.png", "What?", "A cat.", "A dog.", "tie")
    for response_of in (chosen, rejected):
        with pytest.raises(ValueError, match="tie"):
            response_of(tie)


def test_responses_of_every_kind() -> None:
    assert responses(PromptRecord("a.png", "What?")) == ()
    assert responses(DemonstrationRecord("a.png", "What?", "x")) == ("x",)
    assert responses(CandidatesRecord("a.png", "What?", ["x", "y", "x"])) == ["x", "y", "x"]
    assert responses(PreferenceRecord("a.png", "What?", "x", "y", "tie")) == ("x", "y")


def test_whole_file_faults(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"\xef\xbb\xbf\n \n")
    assert fault(empty) == ("file", "the file holds no records")
    assert "No such file" in fault(tmp_path / "none.jsonl")[1]
    assert "not a regular file" in fault(tmp_path)[1]
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in fault(tmp_path / "fifo")[1]


def test_every_problem_is_listed_and_good_lines_go_on(tmp_path: Path) -> None:
    path = write(tmp_path, b"{", PROMPT, b"[]", b'{"image_path": "a"}', PROMPT)
    problems = [p for _, p in parse_file(path, PromptRecord) if isinstance(p, Problem)]
    assert [(p.line, p.field) for p in problems] == [(1, ""), (3, ""), (4, "instruction")]
    assert str(problems[2]) == f"{path}:4:instruction: {problems[2].message}"
    assert str(Problem("f.jsonl", 0, "", "gone")) == "f.jsonl: gone"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (PROMPT, PromptRecord),
        (PAIR, PreferenceRecord),
        (b'{"response": 1}', DemonstrationRecord),
        (b'{"responses": 1}', CandidatesRecord),
    ],
)
def test_kind_of_the_first_object(tmp_path: Path, line: bytes, kind: type) -> None:
    assert record_kind(write(tmp_path, b"[]", b"{", line, PROMPT, PAIR)) is kind


def test_kind_of_no_file(tmp_path: Path) -> None:
    assert record_kind(tmp_path / "none.jsonl") is PromptRecord


def test_round_trip_and_replacement(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"old")
    pairs = [
        PreferenceRecord(
            "ü/a.png", "Was?\n", "A\u2028", '"', "tie", id="1", meta={"k": {"z": 1.5}}
        ),
        PreferenceRecord("b.png", "x", "y", "z", "response_a", seconds=0.25, shown_left="y"),
    ]
    write_records(path, iter(pairs))
    assert read_records(path, PreferenceRecord) == pairs
    assert path.read_bytes().count(b"\n") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize("path", ["a.png", "sub/a.png", "sub/../a.png", "./a.png", "ü b.png", "~"])
def test_paths_inside_the_root(tmp_path: Path, path: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.png").symlink_to("a.png")
    result = resolve_image(path, tmp_path)
    assert result == Path(os.path.normpath(tmp_path.resolve() / path))
    assert resolve_image(str(tmp_path / path), tmp_path) == result
    assert resolve_image("link.png", tmp_path) == tmp_path.resolve() / "a.png"


@pytest.mark.parametrize(
    "path",
    ["..", "../a.png", "../root2/a.png", "sub/../../a.png", "./../a.png", "a/b/../../../c"]
    + ["/etc/passwd", "//etc/passwd", "/", "/proc/self/root/etc/passwd", "../" * 40 + "etc/passwd"]
    + ["http://x/a.png", "https://x/a.png", "file:///etc/passwd", "ftp://x/y", " http://x/y"]
    + ["data:image/png;base64,AAAA", "s3://bucket/a.png", "HTTP://x/y", "git+ssh://x/y"]
    + ["out.png", "outdir/a.png", "outdir/../a.png", "loop.png", "loop.png/a.png", "sub/up/a.png"]
    + ["a\0.png", "\ud800.png"],
)
def test_paths_that_lead_out(tmp_path: Path, path: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "root2"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "a.png").write_bytes(b"secret")
    (root / "out.png").symlink_to(outside / "a.png")
    (root / "outdir").symlink_to(outside, target_is_directory=True)
    (root / "sub" / "up").symlink_to("../..", target_is_directory=True)
    (root / "loop.png").symlink_to("loop.png")
    with pytest.raises(DataError) as caught:
        resolve_image(path, root)
    assert caught.value.where == path
    assert caught.value.fix
