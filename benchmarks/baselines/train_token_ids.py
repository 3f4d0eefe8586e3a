"""Images and our scores for a trainer that passes token ids only.

Image placeholders become an id beyond the vocabulary that gives the index of the prompt, so that
the same instruction about two images makes two prompts. Needs no trl.
"""

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from transformers.models.llava.modeling_llava import LlavaModel

from baselines.train_scorer import PromptScorer
from rlhf.data.images import load_image


class PromptIndexModel(LlavaModel):
    """LlavaModel whose ids beyond the vocabulary are placeholders that give the prompt's index."""

    pixels: Tensor

    def forward(self, input_ids: Any = None, pixel_values: Any = None, **kwargs: Any) -> Any:
        is_placeholder = (
            None if input_ids is None else input_ids >= self.config.text_config.vocab_size
        )
        if is_placeholder is not None and is_placeholder.any():
            numbers = input_ids.amax(1) - self.config.text_config.vocab_size
            pixel_values = self.pixels[numbers.to(self.pixels.device)].to(input_ids.device)
            input_ids = input_ids.where(~is_placeholder, self.config.image_token_id)
            kwargs["mm_encoder_outputs"] = (
                None  # which generate set, having found nothing to encode
            )
        return super().forward(input_ids=input_ids, pixel_values=pixel_values, **kwargs)


class RewardModelAdapter(nn.Module):
    """A reward model of trl's kind: its hidden states are our scores, its head is the identity."""

    base_model_prefix = "model"

    def __init__(self, scorer: PromptScorer, vocabulary: int) -> None:
        super().__init__()
        self.model, self.score = self.score_rows, nn.Identity()
        self.scorer, self.vocabulary = scorer, vocabulary

    def score_rows(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        """Return hidden states [B, T, 1] that hold the score of each row at every position."""
        numbers = (input_ids.amax(1) - self.vocabulary).tolist()
        prompt_lens = self.scorer.prompts.spans.lengths.tolist()
        sequences = [
            row[mask].tolist() for row, mask in zip(input_ids, attention_mask.bool(), strict=True)
        ]
        rows = [ids[prompt_lens[number] :] for number, ids in zip(numbers, sequences, strict=True)]
        scores, _ = self.scorer.scores(numbers, rows)
        states = scores.to(input_ids.device)[:, None, None].expand(*input_ids.shape, 1)
        return SimpleNamespace(hidden_states=[states])


def prompt_index_ids(scorer: PromptScorer, vocabulary: int) -> list[list[int]]:
    """Return the prompts' ids, with placeholders replaced by the index of the prompt."""
    rows = []
    for number, ids in enumerate(
        scorer.prompts.tokens.split(scorer.prompts.spans.lengths.tolist())
    ):
        rows.append(ids.where(ids != scorer.llava.image_token_id, vocabulary + number).tolist())
    return rows


def pixel_values_of(scorer: PromptScorer) -> Tensor:
    """Return the preprocessed image of each prompt, [n, 3, S, S]."""
    images = {path: load_image(path) for (path,) in scorer.prompts.images}
    processed = scorer.llava.processor.image_processor([*images.values()], return_tensors="pt")
    index = {path: number for number, path in enumerate(images)}
    rows = [index[path] for (path,) in scorer.prompts.images]
    pixels: Tensor = processed["pixel_values"][rows]
    return pixels
