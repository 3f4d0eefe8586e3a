"""Models set against the first of them: metrics worked by hand, and what people prefer."""

from math import isnan

import pytest

from rlhf.data.records import PreferenceRecord, PromptRecord
from rlhf.evaluation.judges import pairwise_outcomes
from rlhf.evaluation.model_comparison import (
    instruction_kind,
    person_outputs,
    win_metrics,
    win_metrics_by_kind,
)


def test_a_tie_is_half_a_win_and_unscored_responses_count_for_nothing() -> None:
    metrics = win_metrics(["win", "win", "tie", "loss", "unscored"])
    assert (metrics["wins"], metrics["losses"], metrics["ties"]) == (2, 1, 1)
    assert metrics["win_rate"] == 2.5 / 4
    assert metrics["low"] < 2.5 / 4 < metrics["high"]
    assert win_metrics(["unscored"])["win_rate"] is None


def test_kinds_are_the_type_or_the_first_two_words() -> None:
    records = [
        PromptRecord("a.png", "What is it?"),
        PromptRecord("b.png", "What is the colour?"),
        PromptRecord("c.png", "Anything", meta={"type": "free"}),
    ]
    assert [instruction_kind(record) for record in records] == ["What is", "What is", "free"]
    metrics = win_metrics_by_kind(records, ["win", "loss", "tie"])
    assert list(metrics) == ["What is", "free"]
    assert (metrics["What is"]["prompts"], metrics["What is"]["win_rate"]) == (2, 0.5)


def judgment(n: int, a: str, b: str, wins: str) -> PreferenceRecord:
    return PreferenceRecord(f"{n}.png", "What?", a, b, wins)


def test_what_people_prefer_counts_whatever_the_sides() -> None:
    records = [PromptRecord(f"{n}.png", "What?") for n in range(5)]
    baseline_texts, model_texts = ["x"] * 5, ["y", "y", "y", "y", "x"]
    judgments = [
        judgment(0, "x", "y", "response_b"),
        judgment(1, "y", "x", "response_b"),
        *[
            judgment(2, "x", "y", wins)
            for wins in ("response_b", "response_b", "tie", "response_a")
        ],
        judgment(3, "x", "z", "response_b"),  # of another response
    ]
    baseline, model = person_outputs(judgments, records, baseline_texts, model_texts)
    assert model.scores[:3] == [1, -1, pytest.approx(1 / 4)] and model.scores[4] == 0
    assert isnan(model.scores[3]) and isnan(baseline.scores[3])
    assert pairwise_outcomes(baseline, model, 0.0) == ["win", "loss", "win", "unscored", "tie"]
