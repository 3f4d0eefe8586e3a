"""How images and our scores get into a trainer that hands on token ids only.

A prompt's placeholders become the number of the prompt, an id beyond the vocabulary: prompts of the
same words about different images stay apart. Needs no trl.
"""

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from transformers.models.llava.modeling_llava import LlavaModel

from baselines.learning_trl import Judge
from rlhf.data.images import load_image


class NumberedModel(LlavaModel):
    """Ids beyond the vocabulary are placeholders that give the number of their prompt."""

    pixels: Tensor

    def forward(self, input_ids: Any = None, pixel_values: Any = None, **more: Any) -> Any:
        marks = None if input_ids is None else input_ids >= self.config.text_config.vocab_size
        if marks is not None and marks.any():
            numbers = input_ids.amax(1) - self.config.text_config.vocab_size
            pixel_values = self.pixels[numbers]
            input_ids = input_ids.where(~marks, self.config.image_token_id)
            more["mm_encoder_outputs"] = None  # generate has found nothing to encode
        return super().forward(input_ids=input_ids, pixel_values=pixel_values, **more)


class AskingModel(nn.Module):
    """What trl takes for a reward model: its states are our scores, and its head passes them on."""

    base_model_prefix = "model"

    def __init__(self, judge: Judge, vocabulary: int) -> None:
        super().__init__()
        self.model, self.score = self.ask, nn.Identity()
        self.judge, self.vocabulary, self.length = judge, vocabulary, 0.0

    def ask(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        """States [B, T, 1], each row's score at every place."""
        numbers = (input_ids.amax(1) - self.vocabulary).tolist()
        known = self.judge.prompts.spans.lengths.tolist()
        whole = [row[mask].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
        rows = [ids[known[number] :] for number, ids in zip(numbers, whole, strict=True)]
        self.length = sum(map(len, rows)) / len(rows)
        scores, _ = self.judge.scores(numbers, rows)
        states = scores[:, None, None].expand(*input_ids.shape, 1)
        return SimpleNamespace(hidden_states=[states])


def numbered(judge: Judge, vocabulary: int) -> list[list[int]]:
    """Ids of the prompts, their placeholders replaced by the number of the prompt."""
    found = []
    for number, ids in enumerate(judge.prompts.tokens.split(judge.prompts.spans.lengths.tolist())):
        found.append(ids.where(ids != judge.llava.image_token_id, vocabulary + number).tolist())
    return found


def pixels_of(judge: Judge) -> Tensor:
    """[n, 3, S, S] what the processor makes of each prompt's image."""
    opened = {path: load_image(path) for (path,) in judge.prompts.images}
    made = judge.llava.processor.image_processor([*opened.values()], return_tensors="pt")
    place = {path: number for number, path in enumerate(opened)}
    rows = [place[path] for (path,) in judge.prompts.images]
    pixels: Tensor = made["pixel_values"][rows]
    return pixels
