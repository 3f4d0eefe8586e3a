"""What is left of an image after the processor, to the pixel."""

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaNextImageProcessorPil

from rlhf.models.vision.seen_image import seen_image

COLUMNS = torch.arange(16, dtype=torch.uint8) * 16  # a grey for each column
IMAGE = Image.fromarray(COLUMNS[None, :, None].expand(8, 16, 3).contiguous().numpy())


@pytest.mark.parametrize("normalizes", [True, False])
def test_the_middle_of_a_wide_image_is_seen(normalizes: bool) -> None:
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 8}, crop_size=8, do_normalize=normalizes
    )
    seen = seen_image(processor, IMAGE)
    assert seen is not None and seen.tobytes() == IMAGE.crop((4, 0, 12, 8)).tobytes()


def test_pixels_that_are_not_rescaled_are_seen_too() -> None:
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 8}, crop_size=8, do_rescale=False, do_normalize=False
    )
    seen = seen_image(processor, IMAGE)
    assert seen is not None and seen.tobytes() == IMAGE.crop((4, 0, 12, 8)).tobytes()


def test_tiles_keep_the_whole_image() -> None:
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 8}, crop_size=8, image_grid_pinpoints=[[8, 16]]
    )
    assert seen_image(processor, IMAGE) is None
