"""Sizes of a LLaVA, read from its configuration alone; no weights are loaded or downloaded."""

import math
import re
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import AutoConfig, LlamaConfig, LlavaConfig

from rlhf.errors import UsageError
from rlhf.models.adapter_files import LANGUAGE_LINEARS
from rlhf.models.loading import empty_model
from rlhf.models.vision.families import FAMILIES, max_image_tokens, tile_tokens

# Configurations of published models, which thus need no network; other fields are LlamaConfig's.
PUBLISHED: dict[str, dict[str, int]] = {
    "llava-hf/llava-1.5-7b-hf": {},
    "llava-hf/llava-1.5-13b-hf": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
}


@dataclass(frozen=True, kw_only=True)
class ModelDims:
    """Sizes of a LLaVA.

    Attributes:
        num_layers: layers of the language model.
        hidden_size: width of its hidden states.
        intermediate_size: width of its MLPs.
        num_heads: attention heads of a layer.
        num_kv_heads: key and value heads of a layer.
        head_dim: width of one head.
        vocab_size: rows of the output embedding.
        vision_tower_params: parameters of the vision tower.
        projector_params: parameters of the projector.
        embedding_params: parameters of the input embedding.
        lm_head_params: parameters of the output embedding; 0 if it is tied to the input's.
        linear_params: weights of the language model's linear layers, which take LoRA and are
            quantized.
        norm_params: other parameters of the language model: norms and biases.
        lora_params_per_rank: sum over those linear layers of inputs + outputs; an adapter has
            `rank` times as many parameters.
        vision_layers: layers of the vision tower.
        vision_hidden_size: width of its hidden states.
        image_tokens: most tokens that one image takes.
        image_tiles: tiles of that image.
        tile_tokens: features of one tile that the projector reads.
        vision_feature_size: width of one such feature.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    vision_tower_params: int
    projector_params: int
    embedding_params: int
    lm_head_params: int
    linear_params: int
    norm_params: int
    lora_params_per_rank: int
    vision_layers: int
    vision_hidden_size: int
    image_tokens: int
    image_tiles: int
    tile_tokens: int
    vision_feature_size: int

    @property
    def language_params(self) -> int:
        """Parameters that full training changes: the language model without its embeddings."""
        return self.linear_params + self.norm_params


def read_dims(base: str) -> ModelDims:
    """Read the sizes of the LLaVA at a directory or hub id.

    Raises:
        UsageError: there is no configuration, or it is not a LLaVA's.
    """
    if base in PUBLISHED:
        return dims_of(LlavaConfig(text_config=LlamaConfig(vocab_size=32064, **PUBLISHED[base])))
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the configuration of {base} cannot be read",
            str(error).split("\n")[0],
            f"check model.path, or plan for {next(iter(PUBLISHED))}, which needs no network",
        ) from error
    if config.model_type not in FAMILIES:
        raise UsageError(f"{base} is no LLaVA but {config.model_type}", base, "check model.path")
    return dims_of(config)


def dims_of(config: Any) -> ModelDims:
    """Sizes of a LLaVA's configuration, counted on a model on the meta device.

    Raises:
        UsageError: transformers cannot build the model, or packed passes do not compute it.
    """
    model = empty_model(config)
    text, vision, inner = config.text_config, config.vision_config, model.model
    kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    linears = [
        (layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and re.fullmatch(LANGUAGE_LINEARS, name)
    ]
    linear_params = sum(math.prod(sizes) for sizes in linears)
    embeddings = model.get_input_embeddings().weight
    largest_image = max_image_tokens(model)
    tied = model.lm_head.weight is embeddings
    return ModelDims(
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_heads=text.num_attention_heads,
        num_kv_heads=kv_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocab_size=model.lm_head.out_features,
        vision_tower_params=_count(inner.vision_tower),
        projector_params=_count(inner.multi_modal_projector),
        embedding_params=embeddings.numel(),
        lm_head_params=0 if tied else model.lm_head.weight.numel(),
        linear_params=linear_params,
        norm_params=_count(inner.language_model) - embeddings.numel() - linear_params,
        lora_params_per_rank=sum(map(sum, linears)),
        vision_layers=vision.num_hidden_layers,
        vision_hidden_size=vision.hidden_size,
        image_tokens=largest_image.tokens,
        image_tiles=largest_image.tiles,
        tile_tokens=tile_tokens(config),
        vision_feature_size=inner.multi_modal_projector.linear_1.in_features,
    )


def _count(part: nn.Module) -> int:
    return sum(value.numel() for value in part.parameters())
