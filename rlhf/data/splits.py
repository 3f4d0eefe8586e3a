"""Split preference pairs into training and held-out pairs without common images (by content)."""

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from rlhf.config.schema import Config
from rlhf.data.images import image_digest
from rlhf.data.input_files import input_file, read_with_images
from rlhf.data.records import PreferenceRecord, resolve_image
from rlhf.errors import DataError
from rlhf.tracking.console import say


@dataclass(frozen=True)
class Split:
    """Pairs to train on and pairs held out.

    Attributes:
        training: pairs to train on.
        held_out: pairs to measure on.
        root: the directory that image paths of `training` start in.
        held_out_root: the directory that image paths of `held_out` start in.
    """

    training: list[PreferenceRecord]
    held_out: list[PreferenceRecord]
    root: Path
    held_out_root: Path


def split_from_config(config: Config, records: list[PreferenceRecord], root: Path) -> Split:
    """Hold out another file's pairs or a share of the images, as the options say.

    Args:
        config: its data.validation_preferences, data.validation_fraction and seed apply.
        records: the pairs of data.preferences.
        root: the directory that their image paths start in.

    Raises:
        DataError: no decided pair is left to train on.
    """
    data = config.data
    if data.validation_preferences:
        validation_file = input_file(data.validation_preferences, "data.validation_preferences")
        held_out, held_out_root = read_with_images(config, validation_file, PreferenceRecord)
        split = Split(records, held_out, root, held_out_root)
        shared = {*_images(records, root)} & {*_images(held_out, held_out_root)}
        if shared:
            name = validation_file.name
            say(f"{len(shared)} images of {name} are also trained on: its metrics are too good")
    else:
        split = split_pairs(records, root, fraction=data.validation_fraction, seed=config.seed)
    if all(record.preference == "tie" for record in split.training):
        raise DataError(
            "no decided pair is left to train on",
            data.preferences,
            "rank more pairs, or lower data.validation_fraction",
        )
    return split


def split_pairs(
    records: Sequence[PreferenceRecord], root: Path, *, fraction: float, seed: int
) -> Split:
    """Hold out a share of the images, with all their pairs.

    Args:
        records: the pairs to split.
        root: the directory that their image paths start in.
        fraction: share of the distinct images that is held out.
        seed: decides which.
    """
    images = _images(records, root)
    order = _shuffled(set(images), seed)
    held_out = set(order[: round(fraction * len(order))])
    parts: tuple[list[PreferenceRecord], list[PreferenceRecord]] = ([], [])
    for record, image in zip(records, images, strict=True):
        parts[image in held_out].append(record)
    return Split(*parts, root, root)


def fold_splits(
    records: Sequence[PreferenceRecord], root: Path, *, folds: int, seed: int
) -> list[Split]:
    """Split pairs for cross-validation; each image is held out in exactly one split.

    Args:
        records: the pairs to split.
        root: the directory that their image paths start in.
        folds: how many splits; at most one for each distinct image.
        seed: decides which images are held out together.

    Raises:
        DataError: there is one image, or a fold without a decided pair on either side.
    """
    images = _images(records, root)
    order = _shuffled(set(images), seed)
    if len(order) < folds:
        say(f"reward.cv_folds={folds}: there are {len(order)} images, each is a fold", "yellow")
        folds = len(order)
    fold_of = {image: n % folds for n, image in enumerate(order)}
    splits = []
    for fold in range(folds):
        sides: tuple[list[PreferenceRecord], list[PreferenceRecord]] = ([], [])
        for record, image in zip(records, images, strict=True):
            sides[fold_of[image] == fold].append(record)
        if any(all(record.preference == "tie" for record in side) for side in sides):
            raise DataError(
                f"fold {fold + 1} of {folds} has no decided pair to train on or to hold out",
                f"reward.cv_folds={folds}: {len(fold_of)} images",
                "choose fewer folds, or rank pairs of more images",
            )
        splits.append(Split(*sides, root, root))
    return splits


def growing_parts(
    records: Sequence[PreferenceRecord], root: Path, *, count: int, seed: int
) -> list[list[PreferenceRecord]]:
    """Return growing parts of pairs, each with all pairs of its images; the last part is all.

    Part k of n has the fewest images, in an order by the seed, with k/n of the decided pairs.

    Args:
        records: the pairs.
        root: the directory that their image paths start in.
        count: number of parts.
        seed: decides which images come first.

    Raises:
        DataError: one part has no more decided pairs than the one before.
    """
    images = _images(records, root)
    order = _shuffled(set(images), seed)
    decided = Counter(
        image for image, record in zip(images, records, strict=True) if record.preference != "tie"
    )
    totals = [*accumulate(decided[image] for image in order)]
    ends = [bisect_left(totals, totals[-1] * part / count) for part in range(1, count)]
    if len({0, *(totals[end] for end in ends), totals[-1]}) <= count:
        raise DataError(
            f"the pairs cannot be trained on in {count} growing parts",
            f"reward.learning_curve=true: {totals[-1]} decided pairs of {len(order)} images",
            "rank pairs of more images, or leave reward.learning_curve out",
        )
    place = {image: number for number, image in enumerate(order)}
    rows = [*zip(images, records, strict=True)]
    parts = [[record for image, record in rows if place[image] <= end] for end in ends]
    return [*parts, list(records)]


def _images(records: Sequence[PreferenceRecord], root: Path) -> list[str]:
    """Hash the content of each record's image."""
    paths = {record.image_path for record in records}
    digests = {path: image_digest(resolve_image(path, root)) for path in paths}
    return [digests[record.image_path] for record in records]


def _shuffled(digests: set[str], seed: int) -> list[str]:
    order = sorted(digests)
    random.Random(seed).shuffle(order)
    return order
