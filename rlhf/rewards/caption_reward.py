"""A reward model that reads text only: a description stands in for the image."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.data.tokenization import TextEncoder
from rlhf.errors import DataError
from rlhf.models.fingerprints import tokenizer_hash
from rlhf.models.lora import Adapters
from rlhf.models.scalar_head import ScalarHead
from rlhf.rewards.base import REWARD, normalized_scores
from rlhf.rewards.captioner import Captioner
from rlhf.types import PromptBatch, Responses

TEMPLATE = "Image description: {caption}\nInstruction: {instruction}\nResponse: {response}"


class CaptionReward:
    """A scalar head on a text model that reads a caption in place of the image.

    Args:
        model, tokenizer: a stock text model and its tokenizer. A causal model (`AutoModel`) is
            read at the last token; an encoder with a classifier of its own gives its one logit.
        head: reads the state.
        captioner: describes the images.
        source: what encoded the responses.
        base: where the text model was loaded from.
    """

    kind, name, can_fail = "caption_text", "reward", False
    uses_logprob = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        head: ScalarHead,
        captioner: Captioner,
        source: TextEncoder,
        base: str,
    ) -> None:
        self.model, self.tokenizer, self.head = model.eval(), tokenizer, head
        self.captioner, self.backbone_path, self.base = captioner, source, base
        self.adapters = Adapters(model)
        self.mean, self.std = 0.0, 1.0

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        return normalized_scores(self, prompts, responses, max_tokens=max_tokens)

    def head_inputs(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        ids = [self._ids(text) for text in self.texts(prompts, responses)]
        device = self.head.linear.weight.device
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
        last = torch.tensor([len(row) - 1 for row in ids], device=device)
        mask = torch.arange(tokens.shape[1], device=device) <= last[:, None]
        with self.adapters.use(REWARD if REWARD in self.adapters.names else None):
            output = self.model(input_ids=tokens.to(device), attention_mask=mask.long())
        if "logits" in output:
            return output.logits  # type: ignore[no-any-return]
        hidden: Tensor = output.last_hidden_state
        return hidden[torch.arange(len(ids), device=device), last]

    def texts(self, prompts: PromptBatch, responses: Responses) -> list[str]:
        """What the text model reads of each response."""
        captions = self.captioner.captions([row[0] for row in prompts.images])
        texts = [self.backbone_path.decode(row) for row in responses.rows()]
        rows = zip(captions, prompts.instructions, texts, strict=True)
        return [TEMPLATE.format(caption=c, instruction=i, response=r) for c, i, r in rows]

    def backbone(self) -> Any:
        return self.model

    def save_backbone(self, directory: Path) -> None:
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def input_fingerprint(self) -> dict[str, str]:
        return {
            "template": TEMPLATE,
            "tokenizer": tokenizer_hash(self.tokenizer),
            "captions": self.captioner.policy,
        }

    def _ids(self, text: str) -> list[int]:
        """Ids that end as the tokenizer ends a text, once. Raises: DataError, too long."""
        ids = list(self.tokenizer(text, split_special_tokens=True).input_ids)
        end = self.tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids.append(end)
        longest = min(self.tokenizer.model_max_length, self._positions)
        if len(ids) > longest:
            raise DataError(
                f"the text has {len(ids)} tokens, the text model reads {longest}",
                repr(text[:80]),
                "use another reward.text_model, or shorter captions and responses",
            )
        return ids

    @property
    def _positions(self) -> int:
        """Most tokens of a row; RoBERTa's positions begin behind that of the pad."""
        positions = getattr(self.model.config, "max_position_embeddings", None) or sys.maxsize
        offset = "roberta" in str(self.model.config.model_type)
        return int(positions) - (2 if offset else 0)
