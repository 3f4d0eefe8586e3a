"""Records of too many tokens are refused, or left out and counted; nothing is cut."""

from pathlib import Path

import pytest

from rlhf.data.records import (
    CandidatesRecord,
    DemonstrationRecord,
    PreferenceRecord,
    PromptRecord,
    Record,
)
from rlhf.data.token_limits import TokenLimits, fitting_records
from rlhf.data.tokenization import ByteEncoder
from rlhf.errors import DataError

# A prompt of 5 bytes; responses of 1 to 4.
PROMPT = PromptRecord("a.png", "What?")
DEMONSTRATION = DemonstrationRecord("a.png", "What?", "blue")
PAIR = PreferenceRecord("a.png", "What?", "a", "blue", "response_a")
CANDIDATES = CandidatesRecord("a.png", "What?", ["a", "bb", "ccc"])


@pytest.mark.parametrize(
    ("record", "limits", "said"),
    [
        (PROMPT, TokenLimits(5), ""),
        (PROMPT, TokenLimits(4), "prompt and image have 5 tokens, the limit is 4"),
        (PROMPT, TokenLimits(5, 8, 3), ""),
        (
            PROMPT,
            TokenLimits(5, 7, 3),
            "a prompt of 5 tokens and 3 new ones are 8, the model has 7",
        ),
        (DEMONSTRATION, TokenLimits(5, 9, 99), ""),  # its response is there already
        (DEMONSTRATION, TokenLimits(5, 8), "prompt and response have 9 tokens, the model has 8"),
        (PAIR, TokenLimits(5, 9), ""),
        (PAIR, TokenLimits(5, 8), "prompt and response have 9 tokens"),  # the longer one
        (CANDIDATES, TokenLimits(5, 8), ""),
        (CANDIDATES, TokenLimits(5, 7), "prompt and response have 8 tokens"),
    ],
)
def test_limits_by_hand(record: Record, limits: TokenLimits, said: str, tmp_path: Path) -> None:
    problem = limits.problem(record, ByteEncoder(), tmp_path)
    assert (problem.what if problem else "").startswith(said) and bool(problem) == bool(said)
    if not said:
        assert fitting_records([record], ByteEncoder(), tmp_path, limits, skip=False) == [record]
        return
    with pytest.raises(DataError) as caught:
        fitting_records([record], ByteEncoder(), tmp_path, limits, skip=False)
    assert (
        problem and caught.value.what == problem.what and len(str(caught.value).splitlines()) == 3
    )


def test_what_the_model_cannot_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prompt and response have 9 tokens, the model has 8"):
        fitting_records([PAIR], ByteEncoder(), tmp_path, TokenLimits(5, 8), skip=False)


def test_what_does_not_fit_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        PromptRecord("a.png", text) for text in ("Who?", "What is it?", "Why?", "Where is it?")
    ]
    fits = fitting_records(records, ByteEncoder(), tmp_path, TokenLimits(4), skip=True)
    assert fits == [records[0], records[2]]
    assert "2 of 4 records left out, too long; the first: prompt" in capsys.readouterr().out
    with pytest.raises(DataError, match="2 of 4 records are too long; the first: prompt and image"):
        fitting_records(records, ByteEncoder(), tmp_path, TokenLimits(4), skip=False)
    with pytest.raises(DataError, match="4 of 4 records are too long"):  # nothing would be left
        fitting_records(records, ByteEncoder(), tmp_path, TokenLimits(1), skip=True)
