"""Import the rows of a public dataset as preference records with their images."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from rlhf.data.importers.datasets import DATASETS
from rlhf.data.importers.fields import ImportedPair, Row, Skip
from rlhf.data.importers.image_directory import ImageDirectory
from rlhf.data.importers.readers import OpenedRows, open_rows
from rlhf.data.records import PreferenceRecord, write_records
from rlhf.errors import DataError, ResourceError, UsageError
from rlhf.tracking.console import track

MAX_PROBLEMS = 20  # stored as text; further ones are only counted

_LABEL_NAMES = {"tie": "tie"}
_LABEL_NAMES |= dict.fromkeys(("response_a", "a", "A", "left"), "response_a")
_LABEL_NAMES |= dict.fromkeys(("response_b", "b", "B", "right"), "response_b")
_LABEL_NUMBERS = {
    "1/2": {"1": "response_a", "2": "response_b"},
    "0/1": {"0": "response_a", "1": "response_b"},
}
_SWAPPED = {"response_a": "response_b", "response_b": "response_a", "tie": "tie"}


@dataclass
class ImportReport:
    """Counts of records written and rows skipped by an import.

    Attributes:
        labels: number of records by preference.
        skipped: number of rows and pairs left out, by reason.
        problems: the first skipped ones, as `file:row:column: reason`.
        images: number of distinct images.
    """

    labels: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    images: int = 0


def import_dataset(
    source: str,
    files: Sequence[Path],
    output: Path,
    *,
    root: Path | None = None,
    seed: int = 0,
    label_encoding: str = "",
) -> ImportReport:
    """Write `output`/preferences.jsonl and its images to `output`/pictures/.

    Which response becomes response_a depends only on the seed and the row; pairs that a person
    saw as left and right keep their sides.

    Args:
        source: a name in DATASETS.
        files: the dataset's files.
        output: the directory to write; it must not hold preferences.
        root: the directory that image paths start in and may not leave; by default that of
            each file.
        seed: decides which response becomes response_a.
        label_encoding: what numbers as labels mean where the dataset does not say: "1/2" or
            "0/1".

    Raises:
        UsageError: an unknown source, numbers without an encoding, or `output` holds preferences.
        DataError: a file of another format, or no row is usable.
        ResourceError: the directory cannot be written.
    """
    if source not in DATASETS:
        names = ", ".join(DATASETS)
        raise UsageError(f"there is no source {source}", f"rlhf import {source}", f"one of {names}")
    target = output / "preferences.jsonl"
    if target.exists():
        raise UsageError("the directory holds preferences already", str(target), "choose another")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "choose a directory that may be written"
        raise ResourceError(f"cannot make it: {error.strerror}", str(output), fix) from error
    images = ImageDirectory(output / "pictures")
    run = _ImportRun(source, images, seed, DATASETS[source].label_encoding or label_encoding)
    write_records(target, run.records(files, root))
    run.report.images = len(images)
    return run.report


def parse_label(label: object, label_encoding: str) -> str:
    """Translate a dataset's label to response_a, response_b or tie.

    Args:
        label: the label as the dataset writes it.
        label_encoding: what numbers mean: "1/2", "0/1" or "" (unknown).

    Raises:
        Skip: it prefers no response, such as no label, 0 of "1/2" or a boolean.
        UsageError: it is a number and the encoding is unknown or cannot be right.
    """
    if isinstance(label, float) and label.is_integer():
        label = int(label)  # a column with gaps holds its integers as floats
    word = str(label) if isinstance(label, str | int) else ""
    if re.fullmatch(r"-?\d+", word):
        if not label_encoding:
            fix = "set data.label_encoding=1/2 or 0/1: the first number prefers response_a"
            raise UsageError(f"the label is the number {word}", "preference", fix)
        if label_encoding == "0/1" and word == "2":
            fix = "set data.label_encoding=1/2 if 1 prefers response_a"
            raise UsageError("the label 2 is not of the encoding 0/1", "preference", fix)
    side = _LABEL_NUMBERS.get(label_encoding, {}).get(word) or _LABEL_NAMES.get(word)
    if side is None:
        raise Skip("unknown label", "preference", repr(label))
    return side


class _ImportRun:
    """Converts the rows of files to records, and counts the rows that are skipped."""

    def __init__(self, source: str, images: ImageDirectory, seed: int, label_encoding: str) -> None:
        self.source, self.images = source, images
        self.seed, self.label_encoding = seed, label_encoding
        self.report, self._seen = ImportReport(), set[bytes]()

    def records(self, files: Sequence[Path], root: Path | None) -> Iterator[PreferenceRecord]:
        """Yield a record for every usable pair; raise DataError at the end if there was none."""
        for path in files:
            opened = open_rows(path)
            self._check_columns(path, opened)
            with track(f"reading {path.name}", opened.total) as progress:
                for number, row in opened.rows:
                    yield from self._records_of_row(row, f"{path}:{number}", root or path.parent)
                    progress.advance()
        if not self.report.labels.total():
            first = next(iter(self.report.problems), "")
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.report.skipped.most_common())
            raise DataError(f"no row is usable: {reasons}", first, "check SOURCE and data.root")

    def _check_columns(self, path: Path, opened: OpenedRows) -> None:
        missing = DATASETS[self.source].missing_columns(opened.columns)
        if not missing:
            return
        needed = ", ".join("/".join(group) for group in missing)
        matching = [
            name
            for name, dataset in DATASETS.items()
            if not dataset.missing_columns(opened.columns)
        ]
        hint = "rename them and use table"
        if matching:
            hint = f"these columns fit {' or '.join(matching)}"
        columns = ", ".join(sorted(opened.columns)) or "none"
        raise DataError(f"{self.source} needs {needed}", f"{path}: has {columns}", hint)

    def _records_of_row(
        self, row: Row | Skip, where: str, root: Path
    ) -> Iterator[PreferenceRecord]:
        for item in self._pairs(row):
            try:
                if isinstance(item, Skip):
                    raise item
                yield self._record(item, root)
            except Skip as skip:
                self._count_skip(skip, where)
            except UsageError as error:
                raise UsageError(error.what, f"{where}:{error.where}", error.fix) from None

    def _count_skip(self, skip: Skip, where: str) -> None:
        self.report.skipped[skip.reason] += 1
        if len(self.report.problems) < MAX_PROBLEMS:
            place = f"{where}:{skip.field}" if skip.field else where
            detail = f": {skip.detail[:200]}" if skip.detail else ""
            self.report.problems.append(f"{place}: {skip.reason}{detail}")

    def _pairs(self, row: Row | Skip) -> Iterator[ImportedPair | Skip]:
        try:
            if isinstance(row, Skip):
                raise row
            yield from DATASETS[self.source].pairs(row)
        except Skip as skip:
            yield skip

    def _record(self, pair: ImportedPair, root: Path) -> PreferenceRecord:
        label = parse_label(pair.label, self.label_encoding)
        _check_texts(pair, label)
        try:
            image_path = self.images.add(pair.image, root)
        except DataError as error:
            raise Skip("missing or bad image", "image", error.what) from error
        record = self._to_record(pair, label, image_path)
        digest = hashlib.blake2b(msgspec.json.encode(record), digest_size=8).digest()
        if digest in self._seen:
            raise Skip("duplicate row")
        self._seen.add(digest)
        self.report.labels[record.preference] += 1
        return record

    def _to_record(self, pair: ImportedPair, label: str, image_path: str) -> PreferenceRecord:
        """Build the record; a hash of seed and row decides whether the sides are swapped."""
        key = (self.seed, image_path, pair.instruction, pair.first, pair.second, pair.id)
        swaps = hashlib.blake2b(msgspec.json.encode(key)).digest()[0] & 1
        responses, response_meta = (pair.first, pair.second), pair.response_meta
        if swaps and not pair.keeps_sides:
            responses, response_meta = responses[::-1], response_meta[::-1]
            label = _SWAPPED[label]
        meta_by_side = dict(zip(("response_a", "response_b"), response_meta, strict=True))
        return PreferenceRecord(
            image_path=image_path,
            instruction=pair.instruction,
            response_a=responses[0],
            response_b=responses[1],
            preference=label,
            id=pair.id,
            annotator=pair.annotator,
            shown_left=pair.shown_left,
            seconds=pair.seconds,
            created_at=pair.created_at,
            source=self.source if pair.source is None else pair.source,
            meta={**pair.meta, **(meta_by_side if any(response_meta) else {})},
        )


def _check_texts(pair: ImportedPair, label: str) -> None:
    """Skip a pair whose texts a record does not allow: blank, with a NUL, or equal."""
    texts: dict[str, Any] = {"instruction": pair.instruction}
    texts |= {"first response": pair.first, "second response": pair.second}
    for name, value in texts.items():
        if not value.strip():
            raise Skip("blank text", name)
        if "\0" in value:
            raise Skip("NUL in a text", name)
    if label != "tie" and pair.first.strip() == pair.second.strip():
        raise Skip("equal responses")
