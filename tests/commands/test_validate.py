"""`rlhf validate` as a person runs it: what it prints, writes, refuses, and exits with."""

import json
from pathlib import Path

import pytest
from PIL import Image

from rlhf.cli.main import main
from rlhf.data.records import PreferenceRecord, read_records

PAIR = {"image_path": "a.png", "instruction": "What?", "response_a": "x", "response_b": "y"}


def pair(**fields: object) -> bytes:
    return json.dumps({**PAIR, "preference": "response_a", **fields}).encode() + b"\n"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    monkeypatch.chdir(tmp_path)
    return tmp_path


MIXED = (
    b"\xef\xbb\xbf" + pair(id="1"),
    b"{not json\n",
    b'{"instruction" : "W\\u0061s?","response_a":"1", "response_b":"2",'
    b'"preference":"A" ,"image_path":"./a.png"}\r\n',
    b"\n",
    pair(preference=1),
    pair(image_path="broken.png"),
    pair(image_path="../a.png"),
    pair(response_b=" x"),
    b'{"image_path": "\xff"}\n',
    pair(id="2").rstrip(b"\n"),
)


def test_fix_keeps_the_bytes_of_usable_lines_and_explains_rejected_ones(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "pairs.jsonl").write_bytes(b"".join(MIXED))
    assert main(["validate", "pairs.jsonl", "validate.fix_output=usable.jsonl"]) == 3
    usable = directory / "usable.jsonl"
    assert usable.read_bytes() == MIXED[0][3:] + MIXED[2] + MIXED[-1] + b"\n"
    assert [record.id for record in read_records(usable, PreferenceRecord)] == ["1", "", "2"]
    rejected = [
        json.loads(row) for row in (directory / "usable.rejected.jsonl").read_bytes().splitlines()
    ]
    locations = [
        (2, ""),
        (5, "preference"),
        (6, "image_path"),
        (7, "image_path"),
        (8, "preference"),
    ]
    assert [(row["line"], row["field"]) for row in rejected] == [*locations, (9, "")]
    assert all(row["file"] == "pairs.jsonl" and row["message"] for row in rejected)
    assert rejected[0]["text"] == "{not json" and rejected[5]["text"] == '{"image_path": "\\xff"}'
    assert json.loads(rejected[1]["text"])["preference"] == 1
    captured = capsys.readouterr()
    assert "6 unusable rows; the usable ones are in usable.jsonl" in captured.err
    assert main(["validate", "usable.jsonl"]) == 0


def test_fix_of_a_valid_file_rejects_no_row(directory: Path) -> None:
    (directory / "usable.rejected.jsonl").write_text("of an earlier call")
    (directory / "pairs.jsonl").write_bytes(pair())
    (directory / "more.jsonl").write_bytes(pair(response_a="z"))
    assert main(["validate", "pairs.jsonl", "more.jsonl", "validate.fix_output=usable.jsonl"]) == 0
    assert (directory / "usable.jsonl").read_bytes() == pair() + pair(response_a="z")
    assert (directory / "usable.rejected.jsonl").read_bytes() == b""


FIX_REFUSED = {
    "the input": (["pairs.jsonl", "validate.fix_output=pairs.jsonl"], "overwritten"),
    "the input by another path": (
        ["pairs.jsonl", "validate.fix_output=sub/../pairs.jsonl"],
        "overwritten",
    ),
    "the input by a link": (["pairs.jsonl", "validate.fix_output=link.jsonl"], "overwritten"),
    "the input by a second name": (
        ["pairs.jsonl", "validate.fix_output=hard.jsonl"],
        "overwritten",
    ),
    "the second input": (
        ["more.jsonl", "pairs.jsonl", "validate.fix_output=pairs.jsonl"],
        "overwritten",
    ),
    "the rest over an input": (
        ["pairs.rejected.jsonl", "validate.fix_output=pairs.jsonl"],
        "overwritten",
    ),
    "another folder": (["pairs.jsonl", "validate.fix_output=sub/usable.jsonl"], "data.root"),
    "several folders": (
        ["pairs.jsonl", "sub/pairs.jsonl", "validate.fix_output=usable.jsonl"],
        "data.root",
    ),
    "several kinds": (
        ["pairs.jsonl", "prompts.jsonl", "validate.fix_output=usable.jsonl"],
        "PromptRecord",
    ),
}


@pytest.mark.parametrize("name", FIX_REFUSED)
def test_fix_refuses_to_overwrite_its_inputs(
    directory: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (directory / "sub").mkdir()
    for file in ("pairs.jsonl", "more.jsonl", "pairs.rejected.jsonl", "sub/pairs.jsonl"):
        (directory / file).write_bytes(pair())
    (directory / "prompts.jsonl").write_text('{"image_path": "a.png", "instruction": "What?"}\n')
    (directory / "link.jsonl").symlink_to("pairs.jsonl")
    (directory / "hard.jsonl").hardlink_to(directory / "pairs.jsonl")
    before = {path: path.read_bytes() for path in directory.rglob("*.jsonl")}
    args, message = FIX_REFUSED[name]
    assert main(["validate", *args]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in directory.rglob("*.jsonl")} == before


def test_with_data_root_the_fixed_file_may_lie_anywhere(directory: Path) -> None:
    for name in ("one", "two", "out"):
        (directory / name).mkdir()
    (directory / "one" / "p.jsonl").write_bytes(pair() + b"{\n")
    (directory / "two" / "p.jsonl").write_bytes(pair(response_a="z"))
    args = [
        "validate",
        "one/p.jsonl",
        "two/p.jsonl",
        "validate.fix_output=out/usable.jsonl",
        f"data.root={directory}",
    ]
    assert main(args) == 3
    assert main(["validate", "out/usable.jsonl", f"data.root={directory}"]) == 0
    assert main(["validate", "out/usable.jsonl"]) == 3


def test_a_fix_that_cannot_be_written_leaves_everything(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "pairs.jsonl").write_bytes(pair())
    (directory / "usable.jsonl").mkdir()
    assert main(["validate", "pairs.jsonl", "validate.fix_output=usable.jsonl"]) == 5
    assert "Cannot write" in capsys.readouterr().err
    assert not [path for path in directory.iterdir() if "tmp" in path.name]


def test_twenty_problems_errors_first_and_how_many_more(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "pairs.jsonl").write_bytes(pair(id="1") * 15 + b"{\n" * 10)
    assert main(["validate", "pairs.jsonl"]) == 3
    lines = capsys.readouterr().out.splitlines()
    line_numbers = [line.split(":")[1] for line in lines if line.startswith("pairs.jsonl:")]
    # ten errors, then warnings: two at each of the lines 2 to 15
    assert line_numbers == [
        *map(str, range(16, 26)),
        "2",
        "2",
        "3",
        "3",
        "4",
        "4",
        "5",
        "5",
        "6",
        "6",
    ]
    assert "… and 18 more problems" in lines  # 10 + 2·14 - 20


def test_images_are_not_opened_with_check_images_off(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "pairs.jsonl").write_bytes(pair(image_path="none.png"))
    assert main(["validate", "pairs.jsonl"]) == 3
    assert main(["validate", "pairs.jsonl", "validate.check_images=false", "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"][0]
    assert (row["usable"], row["images found"]) == (1, None)


def test_the_table_and_warnings_do_not_refuse(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "train.jsonl").write_bytes(pair() + pair(preference="response_b"))
    (directory / "valid.jsonl").write_bytes(pair(response_a="z", preference="tie"))
    assert main(["validate", "train.jsonl", "valid.jsonl"]) == 0
    output = capsys.readouterr().out
    cells = {
        line.split("│")[1].strip(): line.split("│")[2:4]
        for line in output.splitlines()
        if "│" in line
    }
    assert [cell.strip() for cell in cells["tie"]] == ["0", "1"]
    assert [cell.strip() for cell in cells["share won by a"]] == ["0.5", "–"]
    assert [cell.strip() for cell in cells["images of earlier files"]] == ["0", "1"]
    assert "train.jsonl:2:preference: the opposite label of line 1" in output
    assert "valid.jsonl:image_path: 1 images are also in train.jsonl" in output


def test_files_without_records_are_refused(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "empty.jsonl").touch()
    assert main(["validate", "empty.jsonl", "none.jsonl"]) == 3
    captured = capsys.readouterr()
    assert "empty.jsonl: the file holds no records" in captured.out
    assert "none.jsonl: the file cannot be read" in captured.out
    assert "2 files empty or unreadable" in captured.err


def test_disagreement_and_a_favoured_side_are_reported(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        pair(
            instruction=f"{n}?", annotator=annotator, shown_left=left_response, preference=preferred
        )
        for n in range(12)
        for annotator, left_response, preferred in (
            ("eva", "response_a", "response_a"),
            ("udo", "response_b", "response_b" if n % 3 else "response_a"),
        )
    ]
    (directory / "pairs.jsonl").write_bytes(b"".join(rows))
    assert main(["validate", "pairs.jsonl", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    (agreement,) = summary["people"]
    assert agreement["annotators"] == {"eva": 12, "udo": 12}
    assert agreement["kappa"][0]["kappa"] == pytest.approx(0)  # eva always says the same
    assert agreement["left_share"] == pytest.approx(20 / 24)
    assert ["a side is favoured" in warning["message"] for warning in summary["warnings"]] == [True]
    assert main(["validate", "pairs.jsonl"]) == 0
    output = capsys.readouterr().out
    assert "eva and udo" in output and "Krippendorff's alpha" in output and "83.3%" in output
