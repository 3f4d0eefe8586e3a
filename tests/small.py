"""A tiny LLaVA, pictures and batches for tests."""

from pathlib import Path

import torch

from rlhf.data.collate import prompt_batch, response_batch
from rlhf.data.records import PromptRecord
from rlhf.models.llava import Llava
from rlhf.types import PromptBatch, Responses

INSTRUCTIONS = (
    "What colour is the circle?",
    "Describe the picture.",
    "How many shapes are there?",
    "What is at the top left?",
)


def load(folder: Path) -> Llava:
    """A fresh copy of the model of the `tiny` fixture."""
    return Llava.load(str(folder / "model"), device=torch.device("cpu"), dtype=torch.float32)


def prompts_of(llava: Llava, folder: Path, count: int = 4) -> PromptBatch:
    """The first `count` prompts, each with its own picture, of different lengths."""
    records = [
        PromptRecord(f"pictures/{row:05d}.png", INSTRUCTIONS[row % 4], id=f"p{row}")
        for row in range(count)
    ]
    return prompt_batch(records, llava.builder, folder, max_tokens=200)


def responses_of(llava: Llava, count: int = 4) -> Responses:
    """`count` responses of different lengths; the second is the end-of-sequence token alone."""
    texts = ["red", "", "There are two shapes in this picture.", "a blue star"]
    return response_batch([texts[row % 4] for row in range(count)], llava.builder)
