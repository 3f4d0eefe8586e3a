"""Refuse or leave out records with more tokens than the options or the model's positions allow."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from rlhf.data.records import Record, resolve_image, responses
from rlhf.data.tokenization import TextEncoder
from rlhf.errors import DataError
from rlhf.tracking.console import say

T = TypeVar("T", bound=Record)
_SKIP = (
    "data.on_too_long=skip leaves such records out, "
    "`rlhf validate FILE.jsonl model.path=MODEL` names all of them"
)


class RecordLimits(Protocol):
    """Finds the records that have too many tokens."""

    def problem(self, record: Record, encoder: TextEncoder, root: Path) -> DataError | None:
        """Count the tokens of a record; return what is too long, or None.

        Args:
            record: of any kind.
            encoder: encodes the texts.
            root: the directory that image paths start in.
        """


@dataclass(frozen=True)
class TokenLimits:
    """The most tokens that a prompt, and a prompt with its response, may have.

    Attributes:
        max_prompt_tokens: of a prompt, image tokens included.
        max_positions: of a prompt with its response: positions of the model.
        max_new_tokens: of a response that is still to be sampled.
    """

    max_prompt_tokens: int
    max_positions: int = sys.maxsize
    max_new_tokens: int = 0

    def problem(self, record: Record, encoder: TextEncoder, root: Path) -> DataError | None:
        """Count the tokens of a record; return what is too long, or None.

        Args:
            record: of any kind; each of its responses is counted behind the prompt.
            encoder: encodes the texts.
            root: the directory that image paths start in.

        Raises:
            DataError: an image cannot be read, or a text cannot be encoded.
        """
        images = (resolve_image(record.image_path, root),)
        prompt = len(encoder.prompt_ids(record.instruction, images, record.history))
        where = f"{record.image_path}: {record.instruction[:60]!r}"
        if prompt > self.max_prompt_tokens:
            what = f"prompt and image have {prompt} tokens, the limit is {self.max_prompt_tokens}"
            fix = "shorten the instruction, shrink the image or raise data.max_prompt_tokens"
            return DataError(what, where, f"{fix}; {_SKIP}")
        if texts := responses(record):
            total = prompt + max(len(encoder.response_ids(text)) for text in texts)
            what = f"prompt and response have {total} tokens"
            fix = "shorten the response"
        else:
            total = prompt + self.max_new_tokens
            what = f"a prompt of {prompt} tokens and {self.max_new_tokens} new ones are {total}"
            fix = "lower sampling.max_new_tokens, or shorten the instruction"
        if total <= self.max_positions:
            return None
        return DataError(
            f"{what}, the model has {self.max_positions} positions", where, f"{fix}; {_SKIP}"
        )


def fitting_records(
    records: Sequence[T], encoder: TextEncoder, root: Path, limits: RecordLimits, *, skip: bool
) -> list[T]:
    """Return the records that fit, and print how many do not.

    Args:
        records: of any kind.
        encoder: encodes the texts.
        root: the directory that image paths start in.
        limits: the most tokens.
        skip: leave out what does not fit.

    Raises:
        DataError: a record does not fit and `skip` is false, or none fits.
    """
    problems = [limits.problem(record, encoder, root) for record in records]
    found = [problem for problem in problems if problem]
    if not found:
        return list(records)
    first, share = found[0], f"{len(found)} of {len(records)} records"
    if not skip or len(found) == len(records):
        more = "" if len(found) == 1 else f"{share} are too long; the first: "
        raise DataError(f"{more}{first.what}", first.where, first.fix)
    say(f"{share} left out, too long; the first: {first.what} ({first.where})")
    return [record for record, problem in zip(records, problems, strict=True) if not problem]
