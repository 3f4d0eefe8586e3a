"""Reward models: one number for a picture, an instruction and a response.

Two kinds behind one Protocol. `LlavaReward` reads LLaVA's own features of all three.
`CaptionReward` reads text only: a captioner's description stands in for the picture.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rlhf.data.collate import microbatches, prompts_like, response_batch
from rlhf.data.prompts import PromptBuilder
from rlhf.models.adapters import Adapters
from rlhf.models.captioner import Captioner
from rlhf.models.heads import ScalarHead
from rlhf.models.llava import Llava
from rlhf.types import PromptBatch, Responses

REWARD = "reward"


class RewardModel(Protocol):
    """Scores responses; `mean` and `std` bring raw scores to mean 0, standard deviation 1."""

    kind: str
    base: str
    mean: float
    std: float
    head: ScalarHead
    adapters: Adapters

    def raw_scores(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[B] float32 with autograd: what training compares."""

    def network(self) -> Any:
        """The trunk that the head reads; a stock model with `save_pretrained`."""

    def save_trunk(self, folder: Path) -> None:
        """Write the trunk where the stock classes load it."""


@torch.no_grad()
def score(
    model: RewardModel, prompts: PromptBatch, responses: Responses, *, max_tokens: int
) -> Tensor:
    """[B] float32 on the CPU, (raw score - mean) / std, computed in pieces of bounded size."""
    lengths = prompts.spans.lengths + responses.spans.lengths
    scores = torch.empty(len(responses))
    for rows in microbatches(lengths, max_tokens):
        raw = model.raw_scores(prompts.select(rows), responses.select(rows))
        scores[rows] = (raw.cpu() - model.mean) / model.std
    return scores


class LlavaReward:
    """A scalar head on LLaVA's state at the last response token.

    Args:
        llava: the trunk; the adapter `reward` is used when there is one.
        head: reads the state.
        source: what encoded the prompts and responses. If it is not the trunk's own builder,
            they are encoded anew from their text.
    """

    kind = "llava_head"

    def __init__(self, llava: Llava, head: ScalarHead, source: PromptBuilder) -> None:
        self.llava, self.head, self.source = llava, head, source
        self.adapters, self.base = llava.adapters, llava.base
        self.mean, self.std = 0.0, 1.0

    def raw_scores(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        builder = self.llava.builder
        if self.source is not builder:
            texts = [self.source.decode(row) for row in responses.rows()]
            prompts, responses = prompts_like(prompts, builder), response_batch(texts, builder)
        with self.adapters.use(REWARD if REWARD in self.adapters.names else None):
            hidden = self.llava.final_hidden(prompts, responses)
        scores: Tensor = self.head(hidden)
        return scores

    def network(self) -> Any:
        return self.llava.model

    def save_trunk(self, folder: Path) -> None:
        self.llava.save(folder)


class CaptionReward:
    """A scalar head on a text model that reads a caption in place of the picture.

    Args:
        model, tokenizer: a stock text model (`AutoModel`) and its tokenizer.
        head: reads the state at the last token.
        captioner: describes the pictures.
        source: what encoded the responses.
        base: where the text model was loaded from.
    """

    kind = "caption_text"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        head: ScalarHead,
        captioner: Captioner,
        source: PromptBuilder,
        base: str,
    ) -> None:
        self.model, self.tokenizer, self.head = model.eval(), tokenizer, head
        self.captioner, self.source, self.base = captioner, source, base
        self.adapters = Adapters(model)
        self.mean, self.std = 0.0, 1.0

    def raw_scores(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        ids = [self._ids(text) for text in self.texts(prompts, responses)]
        device = self.head.linear.weight.device
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
        last = torch.tensor([len(row) - 1 for row in ids], device=device)
        with self.adapters.use(REWARD if REWARD in self.adapters.names else None):
            # Right pads stand behind every real token, where a causal model cannot see them.
            hidden = self.model(input_ids=tokens.to(device)).last_hidden_state
        scores: Tensor = self.head(hidden[torch.arange(len(ids), device=device), last])
        return scores

    def texts(self, prompts: PromptBatch, responses: Responses) -> list[str]:
        """What the text model reads of each response."""
        captions = self.captioner.captions([row[0] for row in prompts.images])
        answers = [self.source.decode(row) for row in responses.rows()]
        return [
            f"Image description: {caption}\nInstruction: {instruction}\nResponse: {answer}"
            for caption, instruction, answer in zip(
                captions, prompts.instructions, answers, strict=True
            )
        ]

    def network(self) -> Any:
        return self.model

    def save_trunk(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _ids(self, text: str) -> list[int]:
        ids = self.tokenizer(text, split_special_tokens=True).input_ids
        return [*ids, self.tokenizer.eos_token_id]
