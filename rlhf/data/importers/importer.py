"""Import the rows of a public dataset as records with their images."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from rlhf.data.importers.conversations import read_history
from rlhf.data.importers.conversion import (
    ImportedRecord,
    check_texts,
    label_of,
    remove_image_markers,
    to_record,
    with_earlier,
)
from rlhf.data.importers.datasets import DATASETS, DatasetFormat, best_fits
from rlhf.data.importers.fields import Row, Skip, TrackedRow, refuse_columns
from rlhf.data.importers.image_directory import ImageDirectory
from rlhf.data.importers.image_paths import ImagePaths
from rlhf.data.importers.import_report import ImportReport
from rlhf.data.importers.items import ImportedPrompt
from rlhf.data.importers.readers import OpenedRows, open_rows
from rlhf.data.records import PreferenceRecord, write_records
from rlhf.errors import DataError, UsageError
from rlhf.storage.atomic import make_directory
from rlhf.tracking.console import track


def import_dataset(
    source: str,
    files: Sequence[Path],
    output: Path,
    *,
    root: Path | None = None,
    seed: int = 0,
    label_encoding: str = "",
) -> ImportReport:
    """Write `output`/preferences.jsonl (prompts.jsonl, demonstrations.jsonl) and its images.

    The images lie in `output`/pictures/. Which response becomes response_a depends only on the
    seed and the row; pairs that a person saw as left and right keep their sides.

    Args:
        source: a name in DATASETS; its kind names the file.
        files: the dataset's files.
        output: the directory to write; it must not hold such a file.
        root: the directory that image paths start in and may not leave; by default that of
            each file.
        seed: decides which response becomes response_a.
        label_encoding: what numbers as labels mean where the dataset does not say: "1/2" or
            "0/1".

    Raises:
        UsageError: an unknown source, numbers without an encoding, or `output` holds such a file.
        DataError: a file of another format, or no row is usable.
        ResourceError: the directory cannot be written.
    """
    if source not in DATASETS:
        names = ", ".join(DATASETS)
        raise UsageError(f"there is no source {source}", f"rlhf import {source}", f"one of {names}")
    target = output / f"{DATASETS[source].kind}.jsonl"
    if target.exists():
        what = f"the directory holds {DATASETS[source].kind} already"
        raise UsageError(what, str(target), "choose another")
    make_directory(output)
    run = _ImportRun(source, ImageDirectory(output / "pictures"), seed, label_encoding)
    write_records(target, run.records(files, root))
    run.finish()
    return run.report


class _ImportRun:
    """Converts the rows of files to records, and counts the rows that are skipped."""

    def __init__(self, source: str, images: ImageDirectory, seed: int, label_encoding: str) -> None:
        self.source, self.images, self.seed = source, images, seed
        self.format: DatasetFormat = DATASETS[source]
        self.label_encoding = self.format.label_encoding or label_encoding
        self.report, self._seen = ImportReport(), set[bytes]()
        self._columns, self._columns_read = set[str](), set[str]()
        self._paths: dict[Path, ImagePaths] = {}

    def records(self, files: Sequence[Path], root: Path | None) -> Iterator[ImportedRecord]:
        """Yield a record for every usable item; raise DataError at the end if there was none."""
        for path in files:
            opened = open_rows(path)
            self._check_columns(path, opened)
            self._columns |= opened.columns
            if opened.note:
                self.report.notes.append(f"{path}: {opened.note}")
            directory = root or path.parent
            paths = self._paths.setdefault(directory, ImagePaths(directory, by_end=bool(root)))
            with track(f"reading {path.name}", opened.total) as progress:
                for number, row in opened.rows:
                    yield from self._records_of_row(row, f"{path}:{number}", paths)
                    progress.advance()
        if not self.report.records:
            first = next(iter(self.report.problems), "")
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.report.skipped.most_common())
            fix = "check SOURCE, and data.root: image paths, or their ends, are looked up below it"
            raise DataError(f"no row is usable: {reasons}", first, fix)

    def finish(self) -> None:
        """Complete the report after the last record."""
        self.report.images = len(self.images)
        for paths in self._paths.values():
            if paths.translated:
                written, found = next(iter(paths.translated.items()))
                place = f"{written} is {paths.root / found}"
                count = f"images found under another path: {len(paths.translated)}"
                self.report.notes.append(f"{count}, such as {place}")
        if note := self.report.conversations_note(DATASETS[self.source].kind):
            self.report.notes.append(note)
        if unread := sorted(self._columns - self._columns_read):
            self.report.notes.append(f"columns not used: {', '.join(unread)}")

    def _check_columns(self, path: Path, opened: OpenedRows) -> None:
        missing = self.format.missing_columns(opened.columns)
        if not missing:
            return
        needed = ", ".join("/".join(group) for group in missing)
        matching = best_fits(opened.columns)
        hint = "rename them and use table"
        if matching:
            hint = f"these columns fit {' or '.join(matching)}; without a source, it is recognized"
        columns = ", ".join(sorted(opened.columns)) or "none"
        raise DataError(f"{self.source} needs {needed}", f"{path}: has {columns}", hint)

    def _records_of_row(
        self, row: Row | Skip, where: str, paths: ImagePaths
    ) -> Iterator[ImportedRecord]:
        before = self.report.records
        for item in self._items(row):
            try:
                if isinstance(item, Skip):
                    raise item
                yield self._record(item, paths)
            except Skip as skip:
                self.report.count_skip(skip, where)
            except UsageError as error:
                raise UsageError(error.what, f"{where}:{error.where}", error.fix) from None
        self.report.records_by_row[self.report.records - before] += 1

    def _items(self, row: Row | Skip) -> Iterator[ImportedPrompt | Skip]:
        try:
            if isinstance(row, Skip):
                raise row
            tracked = TrackedRow(row, self._columns_read)
            refuse_columns(tracked)
            history = read_history(tracked) if "history" in row else ()
            for item in self.format.items(tracked):
                yield item if isinstance(item, Skip) else with_earlier(item, history)
        except Skip as skip:
            yield skip

    def _record(self, item: ImportedPrompt, paths: ImagePaths) -> ImportedRecord:
        label = label_of(item, self.label_encoding)
        written, marks_images = item, self.format.marks_images
        item = remove_image_markers(item, marks_images=marks_images)
        check_texts(item, label)
        image_path = self._add_image(item.image, paths)
        record = to_record(item, image_path, self.source, label=label, seed=self.seed)
        digest = hashlib.blake2b(msgspec.json.encode(record), digest_size=8).digest()
        if digest in self._seen:
            raise Skip("duplicate row")
        self._seen.add(digest)
        self._count(record, marked=item != written)
        return record

    def _add_image(self, image: str | bytes, paths: ImagePaths) -> str:
        try:
            image = paths.locate(image) if isinstance(image, str) else image
            return self.images.add(image, paths.root)
        except DataError as error:
            raise Skip("missing or bad image", "image", error.what) from error

    def _count(self, record: ImportedRecord, *, marked: bool) -> None:
        self.report.records += 1
        self.report.with_history += bool(record.history)
        self.report.image_markers += marked
        if isinstance(record, PreferenceRecord):
            self.report.labels[record.preference] += 1
