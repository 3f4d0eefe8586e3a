"""The reward model that reads text only, a caption in place of the image."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.data.tokenization import TextEncoder
from rlhf.errors import DataError, UsageError, as_usage_error
from rlhf.history import transcript
from rlhf.models.checkpoint_files import load_whole
from rlhf.models.encoding import max_positions
from rlhf.models.file_sizes import check_model_files
from rlhf.models.fingerprints import stored_weights, tokenizer_hash
from rlhf.models.llava import Llava
from rlhf.models.lora import Adapters
from rlhf.models.scalar_head import ScalarHead
from rlhf.rewards.base import RewardModel
from rlhf.rewards.captioner import Captioner
from rlhf.rewards.reward_card import CAPTIONER
from rlhf.types import PromptBatch, Responses

TEMPLATE = "Image description: {caption}\nInstruction: {instruction}\nResponse: {response}"


class CaptionReward(RewardModel):
    """A scalar head on a text model that reads a caption in place of the image.

    Args:
        model: a transformers text model: a causal one (`AutoModel`), whose last hidden state is
            used, or a sequence classifier with a head of its own, whose logit is used.
        tokenizer: tokenizer of the text model.
        head: maps the hidden state or logit to the score.
        captioner: makes the captions of the images.
        encoder: decodes the responses.
        base: directory or hub id of the text model.
        llava_base: directory or hub id of the LLaVA whose responses it was built to score.
    """

    kind = "caption_text"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        head: ScalarHead,
        captioner: Captioner,
        encoder: TextEncoder,
        base: str,
        llava_base: str,
    ) -> None:
        self.model, self.tokenizer, self.head = model.eval(), tokenizer, head
        self.captioner, self.encoder, self.base = captioner, encoder, base
        self.llava_base = llava_base
        self.adapters = Adapters(model)

    def head_inputs(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """Compute the inputs of the head for every response (autograd).

        Returns:
            [B, D], the hidden states at the last tokens of the texts; for a classifier its logits
            [B, 1].

        Raises:
            DataError: a text is too long for the text model, or an image has no caption.
        """
        ids = [self._ids(text) for text in self.texts(prompts, responses)]
        device = self.head.linear.weight.device
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
        last = torch.tensor([len(row) - 1 for row in ids], device=device)
        mask = torch.arange(tokens.shape[1], device=device) <= last[:, None]
        with self.adapters.use(self.adapter if self.has_adapter else None):
            output = self.model(input_ids=tokens.to(device), attention_mask=mask.long())
        if "logits" in output:
            return output.logits  # type: ignore[no-any-return]
        hidden: Tensor = output.last_hidden_state
        return hidden[torch.arange(len(ids), device=device), last]

    def fits(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """Find the texts that are short enough for the text model.

        Returns:
            [B] bool.
        """
        lengths = [len(self.token_ids(text)) for text in self.texts(prompts, responses)]
        return torch.tensor(lengths) <= self.max_tokens

    def texts(self, prompts: PromptBatch, responses: Responses) -> list[str]:
        """Texts of caption, prompt with its earlier turns, and response: what the model reads."""
        captions = self.captioner.captions([row[0] for row in prompts.images])
        texts = [self.encoder.decode(row) for row in responses.rows()]
        prompt_texts = map(transcript, prompts.histories, prompts.instructions)
        rows = zip(captions, prompt_texts, texts, strict=True)
        return [TEMPLATE.format(caption=c, instruction=i, response=r) for c, i, r in rows]

    def backbone(self) -> Any:
        """The text model, a transformers model."""
        return self.model

    def save_backbone(self, directory: Path) -> None:
        """Write text model and tokenizer so that the transformers classes can load them."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def input_fingerprint(self) -> dict[str, str]:
        """Template of the text, and hashes of the tokenizer and of how captions are made."""
        return {
            "template": TEMPLATE,
            "tokenizer": tokenizer_hash(self.tokenizer),
            "captions": self.captioner.fingerprint,
        }

    def weights_fingerprint(self) -> dict[str, str]:
        """Quantization, dtype and weight hashes of the text model and the captioning LLaVA."""
        weights = stored_weights(self.model)
        llava = self.captioner.llava
        if llava is None:
            return weights
        captioner = stored_weights(llava.model)
        return weights | {f"{CAPTIONER}{name}": value for name, value in captioner.items()}

    def token_ids(self, text: str) -> list[int]:
        """Encode a text, with one end-of-sequence token if the tokenizer has any."""
        ids = list(self.tokenizer(text, split_special_tokens=True).input_ids)
        eos = self.tokenizer.eos_token_id
        if eos is not None and ids[-1:] != [eos]:
            ids.append(eos)
        return ids

    def _ids(self, text: str) -> list[int]:
        """Encode a text that the text model can read."""
        if len(ids := self.token_ids(text)) > self.max_tokens:
            raise DataError(
                f"the text has {len(ids)} tokens, the text model reads {self.max_tokens}",
                repr(text[:80]),
                "use another reward.text_model, or shorter captions and responses",
            )
        return ids

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text; RoBERTa's first two positions are reserved for padding."""
        reserved = 2 if "roberta" in str(self.model.config.model_type) else 0
        positions = max_positions(self.model.config) - reserved
        return min(int(self.tokenizer.model_max_length), positions)


def load_caption_reward(
    base: str, captioner: Captioner, policy: Llava, dtype: torch.dtype
) -> CaptionReward:
    """Load a frozen text model with a fresh head, or a sequence classifier with its own head.

    Args:
        base: directory or hub id of the text model.
        captioner: makes the captions of the images.
        policy: its prompt builder decodes the responses; its device gets the text model.
        dtype: dtype of the text model's weights.

    Raises:
        UsageError: no text model is named, it does not load, or it has several labels.
    """
    if not base:
        fix = "name a directory or hub id"
        raise UsageError("caption_text needs a text model", "reward.text_model", fix)
    with as_usage_error(
        f"{base} does not load as a text model", "its files", "check reward.text_model"
    ):
        if Path(base).is_dir():
            check_model_files(Path(base))
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        names = config.architectures or [""]
        classifies = names[0].endswith("ForSequenceClassification")
        kind = AutoModelForSequenceClassification if classifies else AutoModel
        model = load_whole(kind, base, headless=not classifies, dtype=dtype)
    model.requires_grad_(False).to(policy.device)
    backbone, head = _split_classifier(model, base) if classifies else (model, None)
    head = head or ScalarHead(model.config.hidden_size)
    return CaptionReward(
        backbone, tokenizer, head.to(policy.device), captioner, policy.builder, base, policy.base
    )


def _split_classifier(classifier: Any, base: str) -> tuple[Any, ScalarHead]:
    """Backbone and head; an encoder keeps its classifier, and the head returns its logit."""
    if classifier.config.num_labels != 1:
        raise UsageError(
            f"a reward model has one label, this classifier {classifier.config.num_labels}",
            base,
            "name a text reward model",
        )
    if isinstance(getattr(classifier, "score", None), nn.Linear):  # read at the last token
        return classifier.base_model, ScalarHead.from_linear(classifier.score)
    return classifier, ScalarHead.identity(1)
