"""What a reader of a comparison should know before believing it."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.data.records import PromptRecord
from rlhf.evaluation.training_images import option, seen_images, training_runs
from rlhf.storage.run_directory import run_directories


def cautions(
    models: Sequence[Path], records: Sequence[PromptRecord], root: Path, judge: str
) -> list[str]:
    """Return sentences about what makes a comparison look better than it is.

    Args:
        models: runs, or models that are no runs, of which nothing is known.
        records: the prompts that the models answered.
        root: the directory that their image paths start in.
        judge: run of the reward model that judges; empty: another judge.
    """
    found = []
    if judge and any(_same(judge, option(run, "reward", "path")) for run in training_runs(models)):
        found.append(
            "The judge is the reward model that was optimised: it says how well PPO did, not "
            "whether the answers are better. Let a person judge, or a reward model of other pairs."
        )
    if trained := seen_images(models, records, root).trained:
        images = len({record.image_path for record in records})
        found.append(
            f"{len(trained)} of {images} images were trained on: hold images back that no "
            "training has seen (data.evaluation_fraction)."
        )
    return found


def _same(one: str, other: str) -> bool:
    """Whether two paths name one run; a directory of runs stands for the newest in it."""
    if not one or not other:
        return False
    newest = [
        next(iter(run_directories(Path(path))), Path(path)).resolve() for path in (one, other)
    ]
    return newest[0] == newest[1]
