"""Models set against the first of them: metrics worked by hand, and what people prefer."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path

import pytest
import torch

from rlhf.config.schema import SamplingConfig
from rlhf.data.collate import Record
from rlhf.data.records import PreferenceRecord, PromptRecord
from rlhf.demo.tiny_llava import build_tiny_llava
from rlhf.evaluation.judges import ModelResponses, generate_responses, pairwise_outcomes
from rlhf.evaluation.model_comparison import (
    Comparison,
    instruction_kind,
    person_outputs,
    win_metrics,
    win_metrics_by_kind,
)
from tests.support import tiny_models


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


class RecordingJudge:
    """Keeps what it is asked to score."""

    name, tie_margin = "recording", 0.0

    def __init__(self) -> None:
        self.judged: list[ModelResponses] = []

    def scores(self, records: Sequence[Record], responses: ModelResponses) -> list[float]:
        self.judged.append(responses)
        return [0.0] * len(records)

    def correct(self, records: Sequence[Record], texts: Sequence[str]) -> None:
        return None


def test_a_model_with_another_tokenizer_reads_its_own_prompts(tiny: Path, tmp_path: Path) -> None:
    texts = ["Which picture is this? a dog in a green garden", "How many dogs and cats? ten"]
    build_tiny_llava(tmp_path / "model", texts, seed=1, hidden=32, layers=2)
    baseline, other = tiny_models.load(tiny), tiny_models.load(tmp_path)
    prompts, judge = tiny_models.prompts_of(baseline, tiny), RecordingJudge()
    own_prompts = tiny_models.prompts_of(other, tiny)
    assert not torch.equal(own_prompts.tokens, prompts.tokens)
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=5)
    records = [PromptRecord("0.png", text) for text in prompts.instructions]
    comparison = Comparison(records, prompts, [judge], baseline, sampling, 0, 1000)
    result = comparison.evaluate("other", other)
    assert result.texts == generate_responses(other, "", own_prompts, sampling).texts
    assert isnan(result.kl)
    for judged in judge.judged:
        assert torch.equal(judged.prompts.tokens, prompts.tokens)
        rows = judged.responses.rows()
        assert [baseline.builder.decode(row) for row in rows] == judged.texts
        ends = [row[-1] == baseline.builder.end_of_turn_id for row in rows]
        assert ends == judged.responses.finished.tolist()
