"""LLaVA for trainers that pass token ids only: it looks the image up by the prompt.

Needs neither rlhf nor trl.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaModel

from baselines.spec import CaseFiles, banned_ids

BANNED_LOGIT = -1e9  # a logit; -inf would make trl's entropy NaN


class ImageLookup:
    """The pixels of each prompt's image."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.length = tensors["ids"].shape[1]
        self.pixels = tensors["pixels"].to(dtype)
        self.index = {_key(row): number for number, row in enumerate(tensors["ids"])}

    def pixel_values(self, ids: Tensor) -> Tensor:
        """Return the pixels [B, 3, S, S] of the prompts that rows [B, T] begin with."""
        return self.pixels[[self.index[_key(row[: self.length])] for row in ids]]


class ImageLookupModel(LlavaModel):
    """LlavaModel that looks images up where the ids hold a prompt and pixels are missing."""

    images: ImageLookup

    def forward(self, input_ids: Any = None, pixel_values: Any = None, **kwargs: Any) -> Any:
        prompt = input_ids is not None and input_ids.shape[1] >= self.images.length
        if prompt and pixel_values is None:
            pixel_values = self.images.pixel_values(input_ids)
            kwargs["mm_encoder_outputs"] = (
                None  # which generate set, having found nothing to encode
            )
        return super().forward(input_ids=input_ids, pixel_values=pixel_values, **kwargs)


class LlavaWithHead(nn.Module):
    """A LLaVA without its output weights and with a scalar head: trl's critic or reward model."""

    base_model_prefix = "model"

    def __init__(self, model: Any, tensors: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.model, self.config = model.model, model.config
        self.score = nn.Linear(tensors[f"{name}.weight"].shape[1], 1)
        self.score.load_state_dict({part: tensors[f"{name}.{part}"] for part in ("weight", "bias")})
        self.score.to(model.dtype)


def load_llava(case_files: CaseFiles, images: ImageLookup | None = None) -> Any:
    """Return the case's LLaVA, frozen, with the logits of banned ids masked."""
    model = LlavaForConditionalGeneration.from_pretrained(
        case_files.model, dtype=case_files.case.torch_dtype
    )
    model.requires_grad_(False)
    if images is not None:
        model.model.__class__ = ImageLookupModel
        model.model.images = images
    banned = banned_ids(model.config)
    model.lm_head.register_forward_hook(lambda _, inputs, logits: _mask_banned(logits, banned))
    return model


def train_language_model(model: Any) -> None:
    """Make the language model's layers and last norm trainable, as model.train=full does."""
    model.model.language_model.requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)


def _mask_banned(logits: Tensor, banned: list[int]) -> Tensor:
    logits[..., banned] = BANNED_LOGIT
    return logits


def _key(row: Tensor) -> bytes:
    return row.numpy().tobytes()
