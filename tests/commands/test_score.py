"""`rlhf score` with a person's own function: scores that are missing, refusals, what is shown."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rlhf.cli.main import main
from rlhf.rewards.reward_card import RewardCard

SCORER = """
import math
def number(images, instructions, responses):
    return [math.nan if text == "none" else float(text) for text in responses]
def length(images, instructions, responses):
    return [float(len(text)) for text in instructions]
"""
CUSTOM_SCORER = ("--scorer=mine.py:number", "scorer.on_failure=drop")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to run in, with an image, and a scorer that reads the response as a number."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "mine.py").write_text(SCORER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, rows: Sequence[dict[str, object]]) -> None:
    base = {"image_path": "a.png", "instruction": "How many?"}
    path.write_text("".join(json.dumps(base | row) + "\n" for row in rows))


def pair(a: str, b: str, preference: str) -> dict[str, object]:
    return {"response_a": a, "response_b": b, "preference": preference}


def run(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    """The metrics of one command that succeeds."""
    assert main([*args, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def scores_of(path: Path) -> list[list[float | None]]:
    return [json.loads(line)["scores"] for line in path.read_text().splitlines()]


def test_pairs_with_a_missing_score_are_in_no_metric(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        pair("none", "9", "response_a"),
        pair("2", "1", "response_a"),
        pair("5", "4", "response_b"),
        pair("3", "none", "response_b"),
        pair("1", "6", "response_b"),
        pair("none", "none", "tie"),
        pair("7", "8", "response_b"),
        pair("0", "0", "tie"),
    ]
    write(directory / "pairs.jsonl", rows)
    result = run(capsys, "score", "pairs.jsonl", *CUSTOM_SCORER, "output=scores.jsonl")
    assert result["accuracy"] == 0.75  # 2 > 1, 6 > 1 and 8 > 7 are right, 5 > 4 is wrong
    assert (result["records"], result["unscored"], result["unscored_pairs"]) == (8, 4, 3)
    assert result["mean_score"] == 46 / 12
    expected = [[None, 9], [2, 1], [5, 4], [3, None], [1, 6], [None, None], [7, 8], [0, 0]]
    assert scores_of(directory / "scores.jsonl") == expected


def test_without_a_fully_scored_pair_there_are_no_metrics(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(directory / "pairs.jsonl", [pair("none", "9", "response_a"), pair("3", "none", "tie")])
    result = run(capsys, "score", "pairs.jsonl", *CUSTOM_SCORER, "output=scores.jsonl")
    assert result == {"records": 2, "mean_score": 6.0, "unscored": 2, "unscored_pairs": 2}
    assert scores_of(directory / "scores.jsonl") == [[None, 9.0], [3.0, None]]


def test_ties_alone_have_no_accuracy(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(directory / "pairs.jsonl", [pair("1", "2", "tie")])
    assert run(capsys, "score", "pairs.jsonl", *CUSTOM_SCORER)["accuracy"] is None


def test_responses_are_shown_unless_they_are_written(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(directory / "c.jsonl", [{"responses": ["11.5", "none", "12"]}] * 10)
    assert main(["score", "c.jsonl", *CUSTOM_SCORER]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "a.png" in line]
    assert rows[:3] == [["a.png", "How many?", x, s] for x, s in zip(*SHOWN, strict=True)]
    assert len(rows) == 20
    assert any("10 more" in line for line in lines)
    assert main(["score", "c.jsonl", *CUSTOM_SCORER, "output=scores.jsonl"]) == 0
    assert "a.png" not in capsys.readouterr().out
    assert scores_of(directory / "scores.jsonl") == [[11.5, None, 12.0]] * 10


SHOWN = (("11.5", "none", "12"), ("11.5", "–", "12"))


@pytest.mark.parametrize("kind", ["pairs", "candidates"])
def test_the_prompt_token_limit_does_not_apply_to_a_custom_scorer(
    directory: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    responses = pair("1", "2", "tie") if kind == "pairs" else {"responses": ["1", "2"]}
    write(directory / "long.jsonl", [responses | {"instruction": "x" * 5000}])
    args = ("score", "long.jsonl", "--scorer=mine.py:length", "data.max_prompt_tokens=4")
    assert run(capsys, *args)["mean_score"] == 5000.0


REFUSED = {
    "no directory": ("pairs.jsonl", "output=no/where.jsonl", 5, "the directory of the output"),
    "a folder": ("pairs.jsonl", "output=taken", 5, "no regular file"),
    "a device": ("pairs.jsonl", "output=/dev/null", 2, "written whole, to a file"),
    "the input": ("pairs.jsonl", "output=./pairs.jsonl", 2, "would be overwritten"),
    "the input by a link": ("pairs.jsonl", "output=link.jsonl", 2, "would be overwritten"),
    "no input": ("none.jsonl", "output=scores.jsonl", 3, "there is no such file"),
    "a folder as input": ("taken", "output=scores.jsonl", 3, "this is a folder, not a file"),
}


@pytest.mark.parametrize("scorer_args", [(), CUSTOM_SCORER])
@pytest.mark.parametrize("name", REFUSED)
def test_files_are_checked_before_anything_loads(
    directory: Path, capsys: pytest.CaptureFixture[str], name: str, scorer_args: tuple[str, ...]
) -> None:
    write(directory / "pairs.jsonl", [pair("1", "2", "tie")])
    (directory / "link.jsonl").symlink_to("pairs.jsonl")
    (directory / "taken").mkdir()
    (directory / "mine.py").unlink()
    before = (directory / "pairs.jsonl").read_bytes()
    file, output, code, message = REFUSED[name]
    (directory / "run").mkdir()
    RewardCard("llava_head", "nowhere", False, 0.0, 1.0, "", "", {}).write(directory / "run")
    run_args = () if scorer_args else ("run",)
    assert main(["score", *run_args, file, output, *scorer_args]) == code
    error_output = capsys.readouterr().err
    assert message in error_output and len(error_output.splitlines()) == 3
    assert (directory / "pairs.jsonl").read_bytes() == before
