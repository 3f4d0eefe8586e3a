"""An image as the vision tower receives it: resized and cropped."""

from typing import Any

import torch
from PIL import Image


def seen_image(image_processor: Any, image: Image.Image) -> Image.Image | None:
    """Return what is left of an image after resizing and cropping.

    Args:
        image_processor: of the LLaVA.
        image: upright RGB.

    Returns:
        The pixels that the vision tower reads, before normalization; None for a processor that cuts
        the image into tiles and so keeps all of it.
    """
    pixels = image_processor(images=image, return_tensors="pt")["pixel_values"]
    if pixels.ndim != 4:  # [1, tiles, 3, H, W]
        return None
    values = pixels[0]
    if image_processor.do_normalize:
        mean, std = (torch.tensor(x)[:, None, None] for x in _statistics(image_processor))
        values = values * std + mean
    if image_processor.do_rescale:
        values = values / image_processor.rescale_factor
    array = values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(array.numpy())


def _statistics(image_processor: Any) -> tuple[list[float], list[float]]:
    return list(image_processor.image_mean), list(image_processor.image_std)
