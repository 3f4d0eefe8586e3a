"""Texts to batches of ids by what encodes them: a model's `PromptBuilder`, or no model at all."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses


class TextEncoder(Protocol):
    """Turns instructions and responses into ids, and responses back."""

    def prompt_ids(self, instruction: str, images: Sequence[Path]) -> list[int]:
        """Ids of a prompt with these images."""

    def response_ids(self, response: str) -> list[int]:
        """Ids of a finished response."""

    def decode(self, ids: list[int]) -> str:
        """The response as a person reads it."""


class ByteEncoder:
    """Text as its UTF-8 bytes, for scorers that read text and no model's tokens."""

    def prompt_ids(self, instruction: str, images: Sequence[Path]) -> list[int]:
        """The bytes of the instruction; images have no tokens here."""
        return list(instruction.encode())

    def response_ids(self, response: str) -> list[int]:
        """The bytes of the response."""
        return list(response.encode())

    def decode(self, ids: list[int]) -> str:
        """The text of the bytes."""
        return bytes(ids).decode()


def reencode_prompts(prompts: PromptBatch, builder: TextEncoder) -> PromptBatch:
    """The same prompts, encoded by another model's builder."""
    asked = zip(prompts.instructions, prompts.images, strict=True)
    rows = [builder.prompt_ids(text, images) for text, images in asked]
    spans = Spans.from_lengths([len(row) for row in rows])
    return replace(prompts, tokens=flat_ids(rows), spans=spans)


def with_images(
    prompts: PromptBatch, images: tuple[tuple[Path, ...], ...], builder: TextEncoder
) -> PromptBatch:
    """The same instructions about other images, which may take more or fewer tokens."""
    return reencode_prompts(replace(prompts, images=images), builder)


def response_batch(texts: Sequence[str], builder: TextEncoder) -> Responses:
    """Finished responses as written by a person or kept in a file."""
    rows = [builder.response_ids(text) for text in texts]
    spans = Spans.from_lengths([len(row) for row in rows])
    return Responses(flat_ids(rows), spans, torch.ones(len(rows), dtype=torch.bool))


def flat_ids(rows: Sequence[Sequence[int]]) -> Tensor:
    """[N] int64, the rows end to end."""
    return torch.tensor([token for row in rows for token in row], dtype=torch.int64)
