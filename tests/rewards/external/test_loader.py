"""A Python function as scorer: its arguments, the numbers it may return, and what is refused."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from rlhf.config.schema import ScorerConfig
from rlhf.errors import ResourceError, UsageError
from rlhf.rewards.base import Scorer
from rlhf.rewards.external.http import HTTPScorer
from rlhf.rewards.external.loader import load_scorer
from rlhf.rewards.external.python_function import FunctionScorer
from tests.support.scored_rows import builder, example, rows

STOP, DROP = ScorerConfig(), ScorerConfig(on_failure="drop")


def scorer_of(directory: Path, source: str, config: ScorerConfig = STOP) -> FunctionScorer:
    """The function `score` of a file with this source."""
    (directory / "mine.py").write_text(source)
    scorer = load_scorer(f"{directory / 'mine.py'}:score", builder, config)
    assert isinstance(scorer, FunctionScorer)
    return scorer


def returning(directory: Path, value: str, config: ScorerConfig = STOP) -> FunctionScorer:
    """A function of `responses` that returns the value of an expression."""
    source = f"import math, numpy, torch, fractions\ndef score(_, __, responses):\n return {value}"
    return scorer_of(directory, source, config)


def scored(scorer: Scorer, directory: Path, count: int = 3) -> Tensor:
    prompts, responses = rows(directory, count)
    scores = scorer.scores(prompts, responses, max_tokens=1)
    assert scores.dtype == torch.float32 and scores.shape == (count,)
    return scores


def test_every_row_is_scored_in_order_in_calls_of_16(tmp_path: Path) -> None:
    source = """
sizes = []
def score(images, instructions, responses):
    sizes.append(len(images))
    numbers = [[int(text.split()[1]) for text in texts] for texts in (
        [image.read_text() for image in images], instructions, responses)]
    images.clear(), responses.reverse()
    assert numbers[0] == numbers[1] == numbers[2]
    return [number / 2 for number in numbers[0]]
"""
    scorer = scorer_of(tmp_path, source)
    assert scored(scorer, tmp_path, 40).tolist() == [row / 2 for row in range(40)]
    assert scorer._function.__globals__["sizes"] == [16, 16, 8]
    assert scored(scorer, tmp_path, 0).tolist() == []
    assert (scorer.name, scorer.dropped) == ("function mine.py:score", 0)


@pytest.mark.parametrize(
    "value",
    [
        "(1, 2.5, -3)",
        "numpy.array([1, 2.5, -3], dtype=numpy.float16)",
        "torch.tensor([1, 2.5, -3], dtype=torch.bfloat16, requires_grad=True)",
        "[numpy.int64(1), numpy.float32(2.5), torch.tensor(-3.0)]",
        "[numpy.array(1.0), fractions.Fraction(5, 2), torch.tensor(-3)]",
    ],
)
def test_numbers_of_every_library_are_accepted(tmp_path: Path, value: str) -> None:
    assert scored(returning(tmp_path, value), tmp_path).tolist() == [1.0, 2.5, -3.0]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("[1, 2]", "2 scores for 3 responses"),
        ("[1, 2, 3, 4]", "4 scores for 3 responses"),
        ("[]", "0 scores for 3 responses"),
        ("1.0", "float instead of a list"),
        ("None", "NoneType instead of a list"),
        ("'123'", "str instead of a list"),
        ("{0: 1, 1: 2, 2: 3}", "dict instead of a list"),
        ("(x for x in (1, 2, 3))", "generator instead of a list"),
        ("torch.tensor(1.0)", "Tensor instead of a list"),
        ("[1, True, 3]", "bool instead of a number"),
        ("[1, numpy.bool_(True), 3]", "bool instead of a number"),
        ("torch.tensor([True, False, True])", "bool instead of a number"),
        ("[1, '2', 3]", "str instead of a number"),
        ("[1, None, 3]", "NoneType instead of a number"),
        ("[1, [2], 3]", "list instead of a number"),
        ("numpy.ones((3, 1))", "list instead of a number"),
        ("[1, 2j, 3]", "complex instead of a number"),
        ("[1, math.nan, 3]", "1 of 3 scores are not finite"),
        ("[1, 2, -math.inf]", "1 of 3 scores are not finite"),
        ("[10**400, 1e39, 3]", "2 of 3 scores are not finite"),
        ("[1, 2, 1 / 0]", "mine.py:3: ZeroDivisionError: division by zero"),
        ("exit(0)", "mine.py:3: SystemExit: 0"),
    ],
)
def test_an_unusable_return_value_stops_the_run(tmp_path: Path, value: str, fault: str) -> None:
    with pytest.raises(ResourceError, match="function mine.py:score") as caught:
        scored(returning(tmp_path, value), tmp_path)
    assert fault in caught.value.where


def test_dropping_leaves_nan_for_failed_responses_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
def score(images, instructions, responses):
    if "response 16" in responses:
        raise ValueError("a bad batch")
    bad = {"response 33": float("nan"), "response 34": float("inf")}
    return [bad.get(text, 7) for text in responses]
"""
    scorer = scorer_of(tmp_path, source, DROP)
    for calls in (1, 2):
        missing = scored(scorer, tmp_path, 36).isnan().nonzero().flatten().tolist()
        assert missing == [*range(16, 32), 33, 34]
        assert scorer.dropped == calls * 18
    output = capsys.readouterr().out
    assert output.count("dropped") == 1 and "mine.py:4: ValueError: a bad batch" in output


def test_dropping_everything_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        scored(returning(tmp_path, "[math.nan] * 3", DROP), tmp_path)
    assert caught.value.exit_code == 5
    with pytest.raises(ResourceError, match="function mine.py:score"):
        scored(returning(tmp_path, "None", DROP), tmp_path)


def test_ten_failed_calls_in_a_row_stop_the_run(tmp_path: Path) -> None:
    source = """
calls = []
def score(images, instructions, responses):
    calls.append(len(calls))
    return [1.0] * len(images) if calls[-1] in (0, 9, 10) else None
"""
    scorer = scorer_of(tmp_path, source, DROP)
    with pytest.raises(ResourceError):
        scored(scorer, tmp_path, 16 * 30)
    assert scorer._function.__globals__["calls"] == list(range(21))
    assert scorer.dropped == 16 * (8 + 9)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def score(:\n", "mine.py does not load mine.py:1: SyntaxError"),
        ("x = 1\n\nimport nothing_of_that_name", "mine.py:3: ModuleNotFoundError"),
        ("def f():\n    return 1 / 0\n\nf()", "mine.py:2: ZeroDivisionError"),
        ("import sys\nsys.exit()", "mine.py:2: SystemExit"),
        ("score = 3", "mine.py has no function score"),
        ("def other(): ...", "define score(images, instructions, responses)"),
    ],
)
def test_a_file_without_the_function_is_refused(tmp_path: Path, source: str, lines: str) -> None:
    with pytest.raises(UsageError) as caught:
        scorer_of(tmp_path, source)
    assert caught.value.exit_code == 2
    assert lines in str(caught.value).replace("\n", " ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_scorer(f"{tmp_path}/nowhere.py:score", builder, STOP)


@pytest.mark.parametrize(
    "name",
    ["", "reward", "mine.py", "mine.py:", ":score", "mine.txt:score", "mine.py:a.b", "ftp://h/x"],
)
def test_a_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="does not name a scorer") as caught:
        load_scorer(name, builder, STOP)
    assert "my_scorer.py:score" in caught.value.fix and "http://" in caught.value.fix


@pytest.mark.parametrize("name", ["http://127.0.0.1:1/score", "HTTPS://example.org"])
def test_an_address_names_a_service(name: str) -> None:
    assert isinstance(load_scorer(name, builder, STOP), HTTPScorer)


def test_a_file_may_define_dataclasses(tmp_path: Path) -> None:
    source = """
from __future__ import annotations
from dataclasses import dataclass
@dataclass
class Answer:
    text: str
def score(images, instructions, responses):
    return [len(Answer(text).text) for text in responses]
"""
    assert scored(scorer_of(tmp_path, source), tmp_path).tolist() == [10, 10, 10]


def test_the_function_of_the_guide_works(tmp_path: Path) -> None:
    score = scorer_of(tmp_path, example("my_scorer.py"))._function
    paths = [tmp_path / "light.png", tmp_path / "night.png"]
    for path, grey in zip(paths, (250, 5), strict=True):
        Image.new("L", (4, 4), grey).save(path)
    assert score(paths, ["How light is it?"] * 2, ["It is bright"] * 2) == [1.94, -2.06]
