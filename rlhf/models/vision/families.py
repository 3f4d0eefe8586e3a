"""What differs between LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision, each by its stock class.

The first shows an image as one tile. The others cut it into tiles beside a small one of the
whole; what padding filled is left out again, and each line of patches ends with a token of its own.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
)
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from rlhf.data.image_token_counts import FixedTokens, ImageTokens, TiledTokens

FAMILIES: dict[str, Any] = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "llava_onevision": LlavaOnevisionForConditionalGeneration,
}


class MaxImageTokens(NamedTuple):
    """The image that takes most tokens, of those as large as one of the grid's sizes.

    Attributes:
        tokens: of the language model.
        tiles: that the vision tower reads, the small one of the whole among them.
    """

    tokens: int
    tiles: int


def hf_class(base: str) -> Any:
    """The stock class of a LLaVA directory or hub id.

    Raises:
        OSError: no configuration there.
        ValueError: it is not a LLaVA's.
    """
    kind = AutoConfig.from_pretrained(base, trust_remote_code=False).model_type
    if kind not in FAMILIES:
        raise ValueError(f"its model_type is {kind}, not {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def image_tokens(config: Any, processor: Any) -> ImageTokens:
    """What counts the tokens of a prompt's images, for a model of this configuration."""
    if config.model_type == "llava":
        return FixedTokens(tile_tokens(config))
    return TiledTokens(processor, several=config.model_type == "llava_next")


def tile_tokens(config: Any) -> int:
    """Features that the projector reads of one tile."""
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    class_token = not vision.model_type.startswith("siglip")
    return int(side * side + class_token - (config.vision_feature_select_strategy == "default"))


def pack_image_features(model: Any, tiles: Tensor, size: tuple[int, int]) -> Tensor:
    """[I, D], an image as the language model reads it, by the stock model's own function.

    Args:
        model: the stock model.
        tiles: [T, tokens of a tile, D], projected.
        size: height and width of the image.
    """
    config, inner = model.config, model.model
    if config.model_type == "llava":
        return tiles[0]
    options = (
        {"vision_feature_select_strategy": config.vision_feature_select_strategy}
        if config.model_type == "llava_next"
        else {"vision_aspect_ratio": config.vision_aspect_ratio}
    )
    options["image_newline"] = inner.image_newline
    (tokens,), _ = inner.pack_image_features([tiles], [size], **options)
    return tokens  # type: ignore[no-any-return]


def max_image_tokens(model: Any) -> MaxImageTokens:
    """What `rlhf plan` plans for.

    An image between two of OneVision's sizes may take up to a tenth more.

    Args:
        model: the stock model, on the device `meta`.
    """
    config = model.config
    if config.model_type == "llava":
        return MaxImageTokens(tile_tokens(config), 1)
    shape = (tile_tokens(config), config.text_config.hidden_size)
    grid, side = config.image_grid_pinpoints, config.vision_config.image_size
    images = []
    for size in grid:
        tiles = image_size_to_num_patches(size, grid, side)
        tokens = pack_image_features(model, torch.empty(tiles, *shape, device="meta"), tuple(size))
        images.append(MaxImageTokens(len(tokens), tiles))
    return max(images)
