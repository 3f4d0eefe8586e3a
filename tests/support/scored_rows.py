"""Prompts and responses that hold their row number in every part, for tests of scorers."""

import re
from pathlib import Path
from typing import cast

import torch

from rlhf.data.chat_prompts import PromptBuilder
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses

DOCS = Path(__file__).parents[2] / "docs" / "scorers.md"


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


def example(title: str) -> str:
    """The program of the guide whose docstring begins with `title`."""
    programs = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return next(text for text in programs if text.startswith(f'"""{title}'))
