"""Hold images out of `rlhf collect` and `rlhf ppo`, for `rlhf evaluate` to look at."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.config.schema import Config
from rlhf.data.images import image_digest
from rlhf.data.input_files import read_prompts
from rlhf.data.records import PromptRecord, resolve_image
from rlhf.errors import UsageError
from rlhf.tracking.activity import working
from rlhf.tracking.console import say

DIRECTORY_FRACTION = 0.1  # of a folder of images; whoever writes a file of prompts has chosen


def is_held_out(digest: str, fraction: float) -> bool:
    """Tell whether an image is held out, by its content alone.

    It is if the first 64 bits of its hash, as a number from 0 to 1, are below `fraction`. So an
    image stays on its side when others are added, when it is renamed, or when another command reads
    it from another folder; a larger fraction holds out the same images, and more. Each image being
    decided by itself, the count is not exact: 12 of 120, give or take 3, and of few images perhaps
    none, which callers say. An exact count, such as the tenth with the smallest hashes, would move
    images that were trained on to the other side whenever a folder grows.

    Args:
        digest: SHA-256 of the image, see `image_digest`.
        fraction: share of all possible images that is held out, 0 to 1.
    """
    return int(digest[:16], 16) < fraction * 2**64


def evaluation_fraction(fraction: float | None, prompts: str) -> float:
    """Return the share of the images that is held out of training.

    Args:
        fraction: data.evaluation_fraction; None: a share of a folder of images, 0 of a file.
        prompts: data.prompts.
    """
    if fraction is None:
        return DIRECTORY_FRACTION if Path(prompts).is_dir() else 0.0
    return fraction


def held_out_images(records: Sequence[PromptRecord], root: Path, fraction: float) -> set[str]:
    """Return the image paths of records whose image is held out.

    Args:
        records: the prompts.
        root: the directory that their image paths start in.
        fraction: share of the images that is held out, 0 to 1.
    """
    paths = {record.image_path for record in records}
    with working("hashing images"):
        return {x for x in paths if is_held_out(image_digest(resolve_image(x, root)), fraction)}


def read_training_prompts(config: Config) -> tuple[list[PromptRecord], Path]:
    """Read the prompts of data.prompts that may be trained on, and say how many images are not.

    Returns:
        The prompts, and the directory that their image paths start in.

    Raises:
        UsageError: every image is held out; or what `read_prompts` raises.
        DataError: see `read_prompts`.
    """
    records, root = read_prompts(config)
    fraction = evaluation_fraction(config.data.evaluation_fraction, config.data.prompts)
    if not fraction:
        return records, root
    held_out = held_out_images(records, root, fraction)
    training = [record for record in records if record.image_path not in held_out]
    option = f"data.evaluation_fraction={fraction:g}"
    if not training:
        what = f"all images ({len(held_out)}) are held out for rlhf evaluate"
        raise UsageError(what, option, "add images, or set data.evaluation_fraction=0")
    count = f"{len(held_out)} of {len({record.image_path for record in records})} images"
    advice = "" if held_out else ": raise it, or add images"
    say(f"{count} are held out for rlhf evaluate ({option}){advice}")
    return training, root
