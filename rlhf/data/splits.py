"""Training and held-out pairs: no image is on both sides, by content, unless files say so."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.config.schema import Config
from rlhf.data.images import image_digest
from rlhf.data.input_files import input_file, read_with_images
from rlhf.data.records import PreferenceRecord, resolve_image
from rlhf.errors import DataError
from rlhf.tracking.console import say


@dataclass(frozen=True)
class Split:
    """Pairs to train on and pairs held out, each with the directory of its images."""

    training: list[PreferenceRecord]
    held_out: list[PreferenceRecord]
    root: Path
    held_out_root: Path


def split_from_config(config: Config, records: list[PreferenceRecord], root: Path) -> Split:
    """The split that the options name: another file's pairs held out, or a share of the images.

    Raises:
        DataError: no decided pair is left to train on.
    """
    data = config.data
    if data.validation_preferences:
        other = input_file(data.validation_preferences, "data.validation_preferences")
        held_out, held_out_root = read_with_images(config, other, PreferenceRecord)
        split = Split(records, held_out, root, held_out_root)
        shared = {*_images(records, root)} & {*_images(held_out, held_out_root)}
        if shared:
            say(f"{len(shared)} images of {other.name} are also trained on: its metrics flatter")
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
    """A share of the images, with all their pairs, held out."""
    images = _images(records, root)
    order = _shuffled(set(images), seed)
    held = set(order[: round(fraction * len(order))])
    parts: tuple[list[PreferenceRecord], list[PreferenceRecord]] = ([], [])
    for record, image in zip(records, images, strict=True):
        parts[image in held].append(record)
    return Split(*parts, root, root)


def fold_splits(
    records: Sequence[PreferenceRecord], root: Path, *, folds: int, seed: int
) -> list[Split]:
    """`folds` splits, but at most one for each image, which is held out in one of them.

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
        mine = [fold_of[image] == fold for image in images]
        held = [record for record, inside in zip(records, mine, strict=True) if inside]
        rest = [record for record, inside in zip(records, mine, strict=True) if not inside]
        if any(all(record.preference == "tie" for record in part) for part in (held, rest)):
            raise DataError(
                f"fold {fold + 1} of {folds} has no decided pair to train on or to hold out",
                f"reward.cv_folds={folds}: {len(fold_of)} images",
                "choose fewer folds, or rank pairs of more images",
            )
        splits.append(Split(rest, held, root, root))
    return splits


def _images(records: Sequence[PreferenceRecord], root: Path) -> list[str]:
    """Content hash of each record's image."""
    paths = {record.image_path for record in records}
    digests = {path: image_digest(resolve_image(path, root)) for path in paths}
    return [digests[record.image_path] for record in records]


def _shuffled(digests: set[str], seed: int) -> list[str]:
    order = sorted(digests)
    random.Random(seed).shuffle(order)
    return order
