"""Input embeddings of packed tokens, with image features in place of their placeholders."""

import torch
from torch import Tensor

from rlhf.models.packed.packing import PackedBatch
from rlhf.models.vision.image_encoder import ImageEncoder
from rlhf.types import PromptBatch


def embed_packed(packed: PackedBatch, vision: ImageEncoder) -> Tensor:
    """Input embeddings [S, D] of packed tokens.

    Args:
        packed: the batch; cached prefixes are not embedded.
        vision: image encoder of the model, whose input embeddings are used.
    """
    rows = _embed(packed.row_tokens, vision)
    if packed.row_images is not None:
        is_image = packed.row_tokens == vision.image_token_id
        rows = vision.merge_image_features(rows, is_image, packed.rows, packed.row_images)
    if packed.prefixes is None or packed.cached:
        return rows
    return torch.cat([embed_prompts(packed.prefixes, vision), rows])


def embed_prompts(prompts: PromptBatch, vision: ImageEncoder) -> Tensor:
    """Input embeddings [M, D] of prompts.

    Args:
        prompts: B prompts, M tokens in all.
        vision: image encoder of the model, whose input embeddings are used.
    """
    is_image = prompts.tokens == vision.image_token_id
    embeds = _embed(prompts.tokens, vision)
    return vision.merge_image_features(embeds, is_image, prompts.spans, prompts.images)


def _embed(tokens: Tensor, vision: ImageEncoder) -> Tensor:
    embedding = vision.model.get_input_embeddings()
    embeds: Tensor = embedding(tokens.to(embedding.weight.device))
    return embeds
