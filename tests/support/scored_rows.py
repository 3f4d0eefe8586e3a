"""Prompts and responses that hold their row number in every part, for tests of scorers."""

from pathlib import Path
from typing import cast

import torch

from rlhf.data.chat_prompts import PromptBuilder
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


class Builder:
    """Decodes the one token of a response to its row number."""

    def decode(self, ids: list[int]) -> str:
        return f"response {ids[0]}"


builder = cast(PromptBuilder, Builder())


def rows(directory: Path, count: int) -> tuple[PromptBatch, Responses]:
    """`count` rows; row 3 is a file that holds `image 3`, `instruction 3` and `response 3`."""
    for row in range(count):
        (directory / f"{row}.png").write_bytes(b"picture %d" % row)
    spans, tokens = Spans.from_lengths([1] * count), torch.arange(count)
    prompts = PromptBatch(
        tokens=tokens,
        spans=spans,
        images=tuple((directory / f"{row}.png",) for row in range(count)),
        sampling_keys=tokens,
        instructions=tuple(f"instruction {row}" for row in range(count)),
    )
    return prompts, Responses(tokens, spans, torch.ones(count, dtype=torch.bool))


def example(name: str) -> str:
    """The source of an example of the guide to scorers."""
    return (EXAMPLES / name).read_text()
