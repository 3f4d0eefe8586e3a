"""Count the tokens that an image takes in a prompt, without running a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rlhf.data.images import image_size
from rlhf.errors import DataError


class ImageTokenCounter(Protocol):
    """Counts the tokens of a prompt's images.

    Attributes:
        rule: describes how it counts; two counters with equal rules count alike.
    """

    rule: str

    def __call__(self, images: Sequence[Path]) -> list[int]:
        """Count the tokens of each image of one prompt."""


class FixedTokenCounter:
    """Counts the same number of tokens for every image, as LLaVA-1.5; no image is opened.

    Args:
        count: tokens of an image.
    """

    def __init__(self, count: int) -> None:
        self.count, self.rule = count, str(count)

    def __call__(self, images: Sequence[Path]) -> list[int]:
        """Count the tokens of each image of one prompt."""
        return [self.count] * len(images)


class TiledTokenCounter:
    """Counts tokens by the image's size, as the processor of LLaVA-NeXT and OneVision does.

    Args:
        processor: the Transformers processor; its image processor has a grid of sizes.
        several: whether a prompt may have several images. OneVision encodes several images
            differently, which is not supported here.
    """

    def __init__(self, processor: Any, *, several: bool) -> None:
        self._processor, self._several = processor, several
        self._sizes: dict[Path, tuple[int, int]] = {}
        grid = [(height, width) for height, width in processor.image_processor.image_grid_pinpoints]
        self.rule = str(dict(zip(grid, self._count_by_size(grid), strict=True)))

    def __call__(self, images: Sequence[Path]) -> list[int]:
        """Count the tokens of each image of one prompt; each file's header is read once.

        Raises:
            DataError: an image cannot be read, or there are several and one is the limit.
        """
        if len(images) > 1 and not self._several:
            raise DataError(
                "LLaVA-OneVision takes one image in a prompt here",
                ", ".join(map(str, images)),
                "ask about one image, or use a LLaVA-NeXT",
            )
        self._sizes |= {path: image_size(path) for path in images if path not in self._sizes}
        return self._count_by_size([self._sizes[path] for path in images])

    def _count_by_size(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Count the tokens of images of these heights and widths."""
        counts = self._processor._get_num_multimodal_tokens(image_sizes=list(sizes))
        return [int(count) for count in counts["num_image_tokens"]]
