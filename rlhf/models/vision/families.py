"""Differences between LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision.

LLaVA-1.5 reads an image as one tile. The others read it as a grid of tiles and one downscaled tile
of the whole image; tokens of padding are dropped, and each row of patches ends with a newline
token.
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

from rlhf.data.image_token_counts import FixedTokenCounter, ImageTokenCounter, TiledTokenCounter

FAMILIES: dict[str, Any] = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "llava_onevision": LlavaOnevisionForConditionalGeneration,
}


class MaxImageTokens(NamedTuple):
    """Tokens and tiles of the image with the most tokens, among images of the grid's sizes.

    Attributes:
        tokens: image tokens that the language model reads.
        tiles: tiles that the vision tower reads, the downscaled whole image included.
    """

    tokens: int
    tiles: int


def hf_class(base: str) -> Any:
    """The transformers class of a LLaVA directory or hub id.

    Raises:
        OSError: no configuration there.
        ValueError: the configuration is not a LLaVA's.
    """
    family = AutoConfig.from_pretrained(base, trust_remote_code=False).model_type
    if family not in FAMILIES:
        raise ValueError(f"model_type is {family}, wanted one of {', '.join(FAMILIES)}")
    return FAMILIES[family]


def image_tokens(config: Any, processor: Any) -> ImageTokenCounter:
    """The counter of image tokens for a model family.

    Args:
        config: configuration of the transformers LLaVA.
        processor: processor of the same model; what its files lack is filled in.
    """
    if config.model_type == "llava":
        return FixedTokenCounter(tile_tokens(config))
    fill_in_processor(config, processor)
    return TiledTokenCounter(processor, several=config.model_type == "llava_next")


def fill_in_processor(config: Any, processor: Any) -> None:
    """Give a processor of an older checkpoint what later ones have, as the model's files say it.

    Args:
        config: configuration of the transformers LLaVA.
        processor: processor of the same model, which counts image tokens; changed.
    """
    strategy = config.vision_feature_select_strategy
    facts = {
        "patch_size": config.vision_config.patch_size,
        "vision_feature_select_strategy": strategy,
        "num_additional_image_tokens": int(_has_class_token(config)),
        "num_image_tokens": tile_tokens(config) + (strategy == "default"),  # it subtracts that
    }
    for name, value in facts.items():
        if hasattr(processor, name) and not getattr(processor, name):
            setattr(processor, name, value)


def _has_class_token(config: Any) -> bool:
    return not config.vision_config.model_type.startswith("siglip")


def tile_tokens(config: Any) -> int:
    """Number of features per tile that the projector reads."""
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    return int(
        side * side
        + _has_class_token(config)
        - (config.vision_feature_select_strategy == "default")
    )


def pack_image_features(model: Any, tiles: Tensor, size: tuple[int, int]) -> Tensor:
    """Join the projected tiles of an image to the tokens that the language model reads.

    Args:
        model: a transformers LLaVA, whose `pack_image_features` is called.
        tiles: [T, tokens of a tile, D], projected.
        size: height and width of the image, pixels.

    Returns:
        Image tokens [I, D].
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
    """Largest number of tokens and tiles of an image, for the estimates of `rlhf plan`.

    An image whose size lies between two of OneVision's grid sizes may take up to a tenth more.

    Args:
        model: a transformers LLaVA, on the device `meta`.
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
