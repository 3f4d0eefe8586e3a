"""Training and held-out pairs: no picture is on both sides, by content, unless files say so."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.config.schema import Config
from rlhf.data.images import picture_digest
from rlhf.data.input_files import input_file, read_with_pictures
from rlhf.data.records import PreferenceRecord, resolve_image
from rlhf.errors import DataError
from rlhf.tracking.console import say


@dataclass(frozen=True)
class Split:
    """Pairs to train on and pairs held out, each with the folder of its pictures."""

    training: list[PreferenceRecord]
    held_out: list[PreferenceRecord]
    root: Path
    held_out_root: Path


def split_of(config: Config, records: list[PreferenceRecord], root: Path) -> Split:
    """The split that the options name: another file's pairs held out, or a share of the pictures.

    Raises:
        DataError: no decided pair is left to train on.
    """
    data = config.data
    if data.validation_preferences:
        other = input_file(data.validation_preferences, "data.validation_preferences")
        held_out, held_out_root = read_with_pictures(config, other, PreferenceRecord)
        split = Split(records, held_out, root, held_out_root)
        shared = {*_pictures(records, root)} & {*_pictures(held_out, held_out_root)}
        if shared:
            say(f"{len(shared)} pictures of {other.name} are also trained on: its figures flatter")
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
    """A share of the pictures, with all their pairs, held out."""
    pictures = _pictures(records, root)
    order = _shuffled(set(pictures), seed)
    held = set(order[: round(fraction * len(order))])
    parts: tuple[list[PreferenceRecord], list[PreferenceRecord]] = ([], [])
    for record, picture in zip(records, pictures, strict=True):
        parts[picture in held].append(record)
    return Split(*parts, root, root)


def fold_splits(
    records: Sequence[PreferenceRecord], root: Path, *, folds: int, seed: int
) -> list[Split]:
    """`folds` splits, but at most one for each picture, which is held out in one of them.

    Raises:
        DataError: there is one picture, or a fold without a decided pair on either side.
    """
    pictures = _pictures(records, root)
    order = _shuffled(set(pictures), seed)
    if len(order) < folds:
        say(f"reward.folds={folds}: there are {len(order)} pictures, each is a fold", "yellow")
        folds = len(order)
    fold_of = {picture: n % folds for n, picture in enumerate(order)}
    splits = []
    for fold in range(folds):
        mine = [fold_of[picture] == fold for picture in pictures]
        held = [record for record, inside in zip(records, mine, strict=True) if inside]
        rest = [record for record, inside in zip(records, mine, strict=True) if not inside]
        if any(all(record.preference == "tie" for record in part) for part in (held, rest)):
            raise DataError(
                f"fold {fold + 1} of {folds} has no decided pair to train on or to hold out",
                f"reward.folds={folds}: {len(fold_of)} pictures",
                "choose fewer folds, or rank pairs of more pictures",
            )
        splits.append(Split(rest, held, root, root))
    return splits


def _pictures(records: Sequence[PreferenceRecord], root: Path) -> list[str]:
    """Content hash of each record's picture."""
    paths = {record.image_path for record in records}
    digests = {path: picture_digest(resolve_image(path, root)) for path in paths}
    return [digests[record.image_path] for record in records]


def _shuffled(digests: set[str], seed: int) -> list[str]:
    order = sorted(digests)
    random.Random(seed).shuffle(order)
    return order
