"""LLaVA for trainers that hand on token ids only: it finds the image by the prompt.

Needs neither rlhf nor trl.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaModel

from baselines.spec import World, banned_ids

NEVER = -1e9  # a logit; -inf would make trl's entropy NaN


class Images:
    """The pixels of each prompt's image."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.length = tensors["ids"].shape[1]
        self.pixels = tensors["pixels"].to(dtype)
        self.number = {_key(row): number for number, row in enumerate(tensors["ids"])}

    def of(self, ids: Tensor) -> Tensor:
        """[B, 3, S, S] of rows [B, T] that begin with prompts."""
        return self.pixels[[self.number[_key(row[: self.length])] for row in ids]]


class ShownModel(LlavaModel):
    """Looks its images up where the ids hold a prompt and no pixels were given."""

    images: Images

    def forward(self, input_ids: Any = None, pixel_values: Any = None, **more: Any) -> Any:
        prompt = input_ids is not None and input_ids.shape[1] >= self.images.length
        if prompt and pixel_values is None:
            pixel_values = self.images.of(input_ids)
            more["mm_encoder_outputs"] = None  # generate has found nothing to encode
        return super().forward(input_ids=input_ids, pixel_values=pixel_values, **more)


class Scored(nn.Module):
    """A LLaVA's body with a head: what trl takes for a critic or a reward model."""

    base_model_prefix = "model"

    def __init__(self, model: Any, tensors: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.model, self.config = model.model, model.config
        self.score = nn.Linear(tensors[f"{name}.weight"].shape[1], 1)
        self.score.load_state_dict({part: tensors[f"{name}.{part}"] for part in ("weight", "bias")})
        self.score.to(model.dtype)


def load_llava(world: World, images: Images | None = None) -> Any:
    """The case's LLaVA, frozen, which gives no weight to what no response may contain."""
    model = LlavaForConditionalGeneration.from_pretrained(world.model, dtype=world.case.torch_dtype)
    model.requires_grad_(False)
    if images is not None:
        model.model.__class__ = ShownModel
        model.model.images = images
    banned = banned_ids(model.config)
    model.lm_head.register_forward_hook(lambda _, inputs, logits: _without(logits, banned))
    return model


def train_language_model(model: Any) -> None:
    """Make trainable what our full training trains: layers and last norm."""
    model.model.language_model.requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)


def _without(logits: Tensor, banned: list[int]) -> Tensor:
    logits[..., banned] = NEVER
    return logits


def _key(row: Tensor) -> bytes:
    return row.numpy().tobytes()
