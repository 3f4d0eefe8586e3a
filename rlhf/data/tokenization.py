"""Encode texts as batches of ids, with a model's `PromptBuilder` or as bytes without a model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rlhf.history import History, transcript
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses


class TextEncoder(Protocol):
    """Encodes instructions and responses as ids, and decodes responses."""

    def prompt_ids(
        self, instruction: str, images: Sequence[Path], history: History = ()
    ) -> list[int]:
        """Encode a prompt up to where the response begins.

        Args:
            instruction: of the last user turn.
            images: of the first user turn.
            history: the turns before the last user turn.
        """

    def response_ids(self, response: str) -> list[int]:
        """Encode a finished response."""

    def decode(self, ids: list[int]) -> str:
        """Decode a response."""


class Reader(Protocol):
    """A model that reads records."""

    @property
    def builder(self) -> Any:
        """Encodes prompts and responses."""

    @property
    def max_positions(self) -> int:
        """Tokens of the longest sequence."""


@dataclass(frozen=True)
class TextReader:
    """A model that reads records, without the model.

    Attributes:
        builder: encodes prompts and responses.
        max_positions: tokens of the longest sequence.
    """

    builder: Any
    max_positions: int


class ByteEncoder:
    """Encodes text as its UTF-8 bytes, for scorers that read text and no model's tokens."""

    def prompt_ids(
        self, instruction: str, images: Sequence[Path], history: History = ()
    ) -> list[int]:
        """Encode the texts of a prompt.

        Args:
            instruction: of the last user turn.
            images: take no tokens.
            history: the turns before the last user turn.
        """
        return list(transcript(history, instruction).encode())

    def response_ids(self, response: str) -> list[int]:
        """Encode the response."""
        return list(response.encode())

    def decode(self, ids: list[int]) -> str:
        """Decode bytes."""
        return bytes(ids).decode()


def reencode_prompts(prompts: PromptBatch, builder: TextEncoder) -> PromptBatch:
    """Encode the instructions of prompts anew, with another model's builder."""
    turns = zip(prompts.instructions, prompts.images, prompts.histories, strict=True)
    rows = [builder.prompt_ids(*prompt) for prompt in turns]
    spans = Spans.from_lengths([len(row) for row in rows])
    return replace(prompts, tokens=flat_ids(rows), spans=spans)


def reencode_responses(
    responses: Responses, encoder: TextEncoder, builder: TextEncoder
) -> Responses:
    """Encode responses anew, with another model's builder; a cut response gets no end.

    Args:
        responses: B responses.
        encoder: the one that they are encoded with.
        builder: the one that encodes them anew.
    """
    rows = []
    for ids, finished in zip(responses.rows(), responses.finished.tolist(), strict=True):
        new_ids = builder.response_ids(encoder.decode(ids))
        rows.append(new_ids if finished or len(new_ids) == 1 else new_ids[:-1])
    spans = Spans.from_lengths([len(row) for row in rows])
    return Responses(flat_ids(rows), spans, responses.finished)


def with_images(
    prompts: PromptBatch, images: tuple[tuple[Path, ...], ...], builder: TextEncoder
) -> PromptBatch:
    """Replace the images of prompts and encode them anew: images may differ in tokens.

    Args:
        prompts: B prompts.
        images: the new images of each of the B prompts.
        builder: encodes the prompts.
    """
    return reencode_prompts(replace(prompts, images=images), builder)


def response_batch(texts: Sequence[str], builder: TextEncoder) -> Responses:
    """Encode finished responses, e.g. those of a file."""
    rows = [builder.response_ids(text) for text in texts]
    spans = Spans.from_lengths([len(row) for row in rows])
    return Responses(flat_ids(rows), spans, torch.ones(len(rows), dtype=torch.bool))


def flat_ids(rows: Sequence[Sequence[int]]) -> Tensor:
    """Concatenate rows of ids into one tensor [N] int64."""
    return torch.tensor([token for row in rows for token in row], dtype=torch.int64)
