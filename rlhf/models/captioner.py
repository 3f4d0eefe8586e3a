"""Pictures to words, for reward models that read text only."""

from collections.abc import Sequence
from pathlib import Path

import torch

from rlhf.config import SamplingConfig
from rlhf.models.generation import generate
from rlhf.models.llava import Llava
from rlhf.spans import Spans
from rlhf.types import PromptBatch


class Captioner:
    """A LLaVA asked to describe each picture once, greedily, with every adapter off.

    Args:
        llava: the model that describes.
        instruction: what it is asked.
        max_new_tokens: longest caption.
    """

    def __init__(self, llava: Llava, instruction: str, *, max_new_tokens: int = 64) -> None:
        self._llava, self._instruction = llava, instruction
        self._sampling = SamplingConfig(temperature=0.0, max_new_tokens=max_new_tokens)
        self._captions: dict[Path, str] = {}

    def captions(self, images: Sequence[Path]) -> list[str]:
        """One caption for each picture; a picture is described once."""
        missing = sorted(set(images) - set(self._captions))
        if missing:
            with self._llava.adapters.use(None):
                responses, _ = generate(self._llava, self._prompts(missing), self._sampling)
            texts = [self._llava.builder.decode(row) for row in responses.rows()]
            self._captions.update(zip(missing, texts, strict=True))
        return [self._captions[image] for image in images]

    def _prompts(self, images: Sequence[Path]) -> PromptBatch:
        ids = self._llava.builder.prompt_ids(self._instruction)
        return PromptBatch(
            tokens=torch.tensor(ids * len(images)),
            spans=Spans.from_lengths([len(ids)] * len(images)),
            images=tuple((image,) for image in images),
            keys=torch.zeros(len(images), dtype=torch.int64),
            instructions=(self._instruction,) * len(images),
        )
