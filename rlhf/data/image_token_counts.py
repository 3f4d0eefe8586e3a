"""How many tokens an image takes in a prompt, known before any model sees it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rlhf.data.images import image_size
from rlhf.errors import DataError


class ImageTokens(Protocol):
    """Counts the tokens of a prompt's images.

    Attributes:
        rule: equal for two of them that count alike.
    """

    rule: str

    def __call__(self, images: Sequence[Path]) -> list[int]:
        """Tokens of each image of one prompt."""


class FixedTokens:
    """As many for every image, which is not opened: LLaVA-1.5's."""

    def __init__(self, count: int) -> None:
        self.count, self.rule = count, str(count)

    def __call__(self, images: Sequence[Path]) -> list[int]:
        """Tokens of each image of one prompt."""
        return [self.count] * len(images)


class TiledTokens:
    """By the image's size, as the stock processor counts: LLaVA-NeXT's and OneVision's.

    Args:
        processor: the stock processor; its image processor has a grid of sizes.
        several: whether a prompt may have several images. OneVision shows each of several in
            another way, which is not done here.
    """

    def __init__(self, processor: Any, *, several: bool) -> None:
        self._processor, self._several = processor, several
        self._sizes: dict[Path, tuple[int, int]] = {}
        grid = [(height, width) for height, width in processor.image_processor.image_grid_pinpoints]
        self.rule = str(dict(zip(grid, self._of_sizes(grid), strict=True)))

    def __call__(self, images: Sequence[Path]) -> list[int]:
        """Tokens of each image of one prompt, whose header is read once.

        Raises:
            DataError: an image cannot be read, or there are several and may not be.
        """
        if len(images) > 1 and not self._several:
            raise DataError(
                "LLaVA-OneVision takes one image in a prompt here",
                ", ".join(map(str, images)),
                "ask about one image, or use a LLaVA-NeXT",
            )
        self._sizes |= {path: image_size(path) for path in images if path not in self._sizes}
        return self._of_sizes([self._sizes[path] for path in images])

    def _of_sizes(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Of images of these heights and widths."""
        counted = self._processor._get_num_multimodal_tokens(image_sizes=list(sizes))
        return [int(count) for count in counted["num_image_tokens"]]
