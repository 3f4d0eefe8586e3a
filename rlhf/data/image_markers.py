"""Find markers of images that other tools write into instructions."""

import re
from collections.abc import Iterable

# LLaVA, LLaMA-Factory, ms-swift, trl; Qwen, Llama, Phi, DeepSeek, LLaVA's own code.
_MARKER = re.compile(
    r"<(image|video|audio|image_placeholder|ImageHere|im_patch)>|<\|(image(_pad|_\d+)?|video_pad)\|>"
)


def has_image_marker(instruction: str) -> bool:
    """Tell whether an instruction contains a marker such as `<image>`, which is read as text."""
    return "<" in instruction and bool(_MARKER.search(instruction))


def marker_warning(instructions: Iterable[str]) -> str:
    """Say how many instructions contain a marker of an image, and what to do; "" if none does."""
    instructions = list(instructions)
    return marker_message(sum(map(has_image_marker, instructions)), len(instructions))


def marker_message(count: int, total: int) -> str:
    """Format the warning about markers of images; "" if there are none.

    Args:
        count: instructions with a marker.
        total: all instructions.
    """
    if not count:
        return ""
    return (
        f"{count} of {total} instructions contain a marker such as <image>, which the model reads "
        "as text: remove it, the chat template places the image (`rlhf import` removes it)"
    )
