"""The counts of `validate_files` equal those of small files counted by hand."""

import json
from pathlib import Path

import pytest
from PIL import Image

from rlhf.data.validation import image_checks, validate
from rlhf.data.validation.validate import validate_files


def image(path: Path, colour: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)
    return path


def jsonl(path: Path, *rows: dict[str, object] | str) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def pair(
    a: str, b: str, preference: str, image: str = "a.png", **more: object
) -> dict[str, object]:
    texts = {"image_path": image, "instruction": "What is it?", "response_a": a, "response_b": b}
    return {**texts, "preference": preference, **more}


def prompt(image: str, instruction: str = "Name it now") -> dict[str, object]:
    return {"image_path": image, "instruction": instruction}


def test_counts_of_a_preference_file(tmp_path: Path) -> None:
    image(tmp_path / "a.png", "red")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    path = jsonl(
        tmp_path / "pairs.jsonl",
        pair("a cat", "a big dog", "response_b"),  # the longer won
        pair("one two", "one", "tie"),
        pair("one two three four", "one two", "a", "b.png"),  # the longer won
        pair("x y", "z w", "a"),  # equally long: no say on length
        pair("q", "r s", "A"),  # the shorter won
        "not json",
    )
    report = validate_files([path])
    table = {name: values for name, *values in report.as_table()}
    assert table == {
        "file": [str(path)],
        "kind": ["preference"],
        "records": [6],
        "usable": [5],
        "response_a": [3],
        "response_b": [1],
        "tie": [1],
        "duplicates": [0],
        "contradictions": [0],
        "ids of other prompts": [0],
        "image markers": [0],
        "with earlier turns": [0],
        "characters per instruction": [11.0],
        "characters per response": [5.9],  # (5+9 + 7+3 + 18+7 + 3+3 + 1+3) / 10 responses
        "share won by a": [0.75],
        "share won by longer": [0.667],
        "images found": [5],
        "images distinct": [1],
        "images of earlier files": [0],
    }
    assert [problem.line for problem in report.errors] == [6]
    assert not report.ok and report.warnings == []
    assert json.loads(json.dumps(report.as_dict()))["rows"][0]["usable"] == 5


def test_repeats_and_contradictions(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "pairs.jsonl",
        pair("x", "y", "a", id="1"),
        pair("x", "y", "b", id="2"),  # contradicts line 1
        pair("y", "x", "b", id="3"),  # sides swapped, x wins again: repeats line 1
        pair("y", "x", "a", id="3"),  # sides swapped, y wins: contradicts line 1; id of line 3
        pair("x", "y", "tie", id="5"),  # no opposite of anything
        pair("x", "y", "a", "b.png"),  # another image
        pair("x", "y z", "a"),
        pair("x", "y", "b", instruction="Another question"),
    )
    report = validate_files([path], check_images=False)
    row = report.rows[0]
    assert (row["duplicates"], row["contradictions"], row["usable"]) == (2, 2, 8)
    assert report.ok
    assert [(w.line, w.field) for w in report.warnings] == [
        *((2, "preference"), (3, ""), (4, "preference"), (4, "id"), (5, "")),
    ]
    assert "line 1" in report.warnings[0].message and "line 3" in report.warnings[3].message


def test_ids_of_several_prompts_are_counted(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "prompts.jsonl",
        {**prompt("a.png"), "id": "1"},
        {**prompt("b.png"), "id": "1"},  # another image
        {**prompt("a.png", "Why?"), "id": "1"},  # another instruction
        {**prompt("a.png"), "id": "2"},
        {**prompt("a.png"), "id": "2"},  # the same prompt
        {**prompt("c.png"), "id": "3"},
    )
    report = validate_files([path], check_images=False)
    assert report.rows[0]["ids of other prompts"] == 2
    messages = {w.line: w.message for w in report.warnings if w.field == "id"}
    other = "the same id as line 1, but another prompt"
    assert messages == {2: other, 3: other, 5: "the same id as line 4"}


@pytest.mark.parametrize(
    ("instruction", "count"),
    [
        ("<image>\nWhat?", 1),
        ("What? <image>", 1),
        ("<|image_1|>What?", 1),
        ("<|vision_start|><|image_pad|><|vision_end|>What?", 1),
        ("<video>What?", 1),
        ("Is 3 < image > 2?", 0),
        ("What does <img> mean in HTML?", 0),
    ],
)
def test_markers_of_images_are_counted(tmp_path: Path, instruction: str, count: int) -> None:
    path = jsonl(tmp_path / "p.jsonl", prompt("a.png", instruction), prompt("a.png"))
    report = validate_files([path], check_images=False)
    assert report.rows[0]["image markers"] == count and report.ok
    said = [w.message for w in report.warnings]
    assert [text[:31] for text in said] == count * ["1 of 2 instructions contain a m"]
    assert all("remove it" in text for text in said)


def test_other_kinds(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "p.jsonl", "[]", prompt("a.png"), prompt("a.png"))
    second = jsonl(tmp_path / "d.jsonl", {**prompt("a.png"), "response": "one two"})
    candidates = jsonl(
        tmp_path / "c.jsonl", {**prompt("a.png"), "responses": ["one", "one two three"]}
    )
    report = validate_files([first, second, candidates], check_images=False)
    table = {name: values for name, *values in report.as_table()}
    assert table["kind"] == ["prompt", "demonstration", "candidates"]
    assert table["characters per response"] == [None, 7.0, 8.0]
    assert table["share won by a"] == [None] * 3
    assert table["duplicates"] == [1, 0, 0]
    assert [(p.file, p.line) for p in report.errors] == [(str(first), 1)]


def test_images_that_fail_are_errors_on_each_line(tmp_path: Path) -> None:
    image(tmp_path / "a.png", "red")
    (tmp_path / "page.png").write_text("<html>")
    path = jsonl(
        tmp_path / "p.jsonl",
        *(prompt(name) for name in ("a.png", "none.png", "page.png", "../a.png", "page.png")),
    )
    report = validate_files([path])
    assert [(p.line, p.field) for p in report.errors] == [(n, "image_path") for n in (2, 3, 4, 5)]
    messages = [problem.message for problem in report.errors]
    assert (
        "No such file" in messages[0] and "not JPEG" in messages[1] and "leads out" in messages[2]
    )
    assert messages[3] == messages[1]
    assert (report.rows[0]["usable"], report.rows[0]["images found"]) == (1, 1)
    assert validate_files([path], check_images=False).ok


def test_root_and_directory_of_the_file(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png", "red")
    path = jsonl(tmp_path / "p.jsonl", prompt("a.png"))
    assert not validate_files([path]).ok
    assert validate_files([path], root=tmp_path / "images").ok


def test_images_shared_between_files_by_content(tmp_path: Path) -> None:
    for directory, colours in [("train", ("red", "green")), ("valid", ("blue", "green"))]:
        for number, colour in enumerate(colours):
            image(tmp_path / directory / f"{number}.png", colour)
        jsonl(tmp_path / directory / "p.jsonl", prompt("0.png"), prompt("1.png"))
    train, valid = tmp_path / "train" / "p.jsonl", tmp_path / "valid" / "p.jsonl"
    report = validate_files([train, valid])
    assert [row["images of earlier files"] for row in report.rows] == [0, 1]
    assert [(w.file, w.line, w.field) for w in report.warnings] == [(str(valid), 0, "image_path")]
    assert str(train) in report.warnings[0].message
    assert report.ok


def test_each_content_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "a.png", "red")
    image(tmp_path / "b.png", "red")
    (tmp_path / "bad.png").write_bytes(b"bad")
    names = ["a.png", "b.png", "bad.png"] * 3
    path = jsonl(tmp_path / "p.jsonl", *map(prompt, names))
    read_paths, hashed_paths = [], []
    load, digest = image_checks.load_image, image_checks.image_digest  # type: ignore[attr-defined]
    monkeypatch.setattr(image_checks, "load_image", lambda p: (read_paths.append(p.name), load(p)))
    monkeypatch.setattr(
        image_checks, "image_digest", lambda p: (hashed_paths.append(p.name), digest(p))[1]
    )
    report = validate_files([path, path])
    assert (read_paths, hashed_paths) == (["a.png", "bad.png"], ["a.png", "b.png", "bad.png"])
    assert len(report.errors) == 6


def labelled(wins_a: int, wins_b: int, longer: int) -> list[dict[str, object]]:
    """Pairs of which `wins_a` go to a and in `longer` of all the longer answer wins."""
    rows = []
    for n in range(wins_a + wins_b):
        winner, loser = (f"w{n} x", f"l{n}") if n < longer else (f"w{n}", f"l{n} x")
        a_wins = n < wins_a
        rows.append(pair(*((winner, loser, "a") if a_wins else (loser, winner, "b"))))
    return rows


@pytest.mark.parametrize(
    ("wins_a", "wins_b", "longer", "messages"),
    [
        (10, 10, 10, []),
        (18, 2, 10, []),  # 0.9 is not above 0.9
        (19, 1, 10, ["one-sided"]),
        (1, 19, 10, ["one-sided"]),
        (18, 1, 10, []),  # 19 pairs are too few to tell
        (10, 10, 16, []),
        (10, 10, 17, ["length bias"]),
        (20, 0, 20, ["one-sided", "length bias"]),
    ],
)
def test_suspicious_labels(
    tmp_path: Path, wins_a: int, wins_b: int, longer: int, messages: list[str]
) -> None:
    path = jsonl(tmp_path / "pairs.jsonl", *labelled(wins_a, wins_b, longer))
    report = validate_files([path], check_images=False)
    assert [warning.message.split(":")[0] for warning in report.warnings] == messages
    assert report.ok


def test_unusable_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    report = validate_files([tmp_path / "empty.jsonl", tmp_path / "none.jsonl"])
    assert [problem.line for problem in report.errors] == [0, 0]
    assert [row["records"] for row in report.rows] == [0, 0]
    assert validate_files([]).as_table() == []


def test_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "_STRIDE", 2)
    path = jsonl(tmp_path / "p.jsonl", prompt("a.png"), "", "{", *[prompt("b.png")] * 4)
    steps: list[int] = []
    validate_files([path, path], check_images=False, on_progress=steps.append)
    assert steps == [3, 2, 2, 0] * 2  # the blank line counts with what follows it


def test_lines_are_handed_on_as_they_are(tmp_path: Path) -> None:
    image(tmp_path / "a.png", "red")
    path = tmp_path / "p.jsonl"
    good = b'{"instruction" :"x","image_path": "a.png"}\r\n'
    lost = b'{"image_path": "none.png", "instruction": "x"}'
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\n{\n" + lost)
    handed_on: list[tuple[bytes, str]] = []
    validate_files([path], on_line=lambda line, item: handed_on.append((line, type(item).__name__)))
    assert handed_on == [(good, "PromptRecord"), (b"{\n", "Problem"), (lost, "Problem")]


def test_a_byte_order_mark_is_a_warning(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", "\ufeff" + json.dumps(prompt("a.png")))
    report = validate_files([path], check_images=False)
    assert report.ok and "byte order mark" in str(report.warnings)


def test_very_long_texts_are_warnings(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "c.jsonl",
        {**prompt("a.png", "é" * 8000), "responses": ["x", "y" * 7000]},  # long line, short texts
        {**prompt("a.png", "é" * 8001), "responses": ["x", "y" * 9000]},
    )
    report = validate_files([path], check_images=False, max_tokens=2000)
    assert [(w.line, w.field) for w in report.warnings] == [(2, "instruction"), (2, "responses")]
    assert "8001 characters, about 2000 tokens" in report.warnings[0].message and report.ok
    assert len(validate_files([path], check_images=False).warnings) == 1  # of 2048: 9000 only


def test_a_tie_before_opposite_labels_hides_nothing(tmp_path: Path) -> None:
    rows = [pair("x", "y", label) for label in ("tie", "a", "tie", "b", "a")]
    report = validate_files([jsonl(tmp_path / "p.jsonl", *rows)], check_images=False)
    assert [(w.line, w.message[-6:], bool(w.field)) for w in report.warnings] == [
        *((2, "line 1", False), (3, "line 2", False), (4, "line 2", True), (5, "line 2", False)),
    ]
    row = report.rows[0]
    assert (row["duplicates"], row["contradictions"]) == (3, 1)


def test_problems_beyond_the_list_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "MAX_LISTED", 3)
    rows = [pair("x", "y", "a"), *[pair("x", "y", "a")] * 29, *["{"] * 5]
    path = jsonl(tmp_path / "p.jsonl", *rows)  # type: ignore[arg-type]
    report = validate_files([path, path], check_images=False)
    assert (report.error_count, report.warning_count) == (10, 2 * 30)  # 29 repeats and one-sided
    assert [problem.line for problem in report.problems] == [31, 32, 33, 0, 0, 2, 3]
