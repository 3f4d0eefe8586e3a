"""Choose the prompts of a comparison: those whose images no training saw."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.data.evaluation_split import held_out_images
from rlhf.data.records import PromptRecord
from rlhf.errors import UsageError
from rlhf.evaluation.training_images import seen_images
from rlhf.tracking.console import say


def evaluation_prompts(
    models: Sequence[Path], records: Sequence[PromptRecord], root: Path, fraction: float | None
) -> list[PromptRecord]:
    """Return the prompts to compare models on, and say which if they are not all.

    Args:
        models: runs, or models that are no runs, of which nothing is known.
        records: the prompts of data.prompts.
        root: the directory that their image paths start in.
        fraction: data.evaluation_fraction. None: the images that no training saw, if some of them
            were held out, else all; 0: all; else those that this share holds out.

    Raises:
        UsageError: the share holds out no image.
    """
    images = {record.image_path for record in records}
    if fraction is None:
        seen = seen_images(models, records, root)
        chosen, kind = images - seen.trained if seen.held_out else images, "no training saw"
    else:
        chosen = _share(records, root, fraction) if fraction else images
        kind = f"data.evaluation_fraction={fraction:g} holds out"
    if chosen < images:
        everything = f"data.evaluation_fraction=0 takes all {len(images)}"
        say(f"evaluating on the {len(chosen)} images that {kind}; {everything}")
    return [record for record in records if record.image_path in chosen]


def _share(records: Sequence[PromptRecord], root: Path, fraction: float) -> set[str]:
    """Return the images that a share holds out.

    Raises:
        UsageError: there are none.
    """
    if chosen := held_out_images(records, root, fraction):
        return chosen
    where, fix = f"data.evaluation_fraction={fraction:g}", "raise it, or leave it out"
    raise UsageError("this share of the images is empty", where, fix)
