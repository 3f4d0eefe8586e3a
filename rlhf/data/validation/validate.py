"""Validate data files: errors, warnings and statistics to know before training on them."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from rlhf.data.records import Problem, Record, record_kind, scan_file
from rlhf.data.validation.file_statistics import FileStatistics
from rlhf.data.validation.image_checks import IMAGE_NAMES, FileImages, ImageIndex

MAX_LISTED = 1000  # errors, and as many warnings, in the report; others are only counted
_STRIDE = 1000  # lines between two reports of progress
Line = tuple[int, bytes, Record | Problem]  # number, bytes, what was read there
RecordCheck = Callable[[Record, Path], str]  # of a record and its root: what is wrong, or nothing


class ValidationReport(msgspec.Struct):
    """The problems and statistics of validated files. Errors stop a training, warnings do not.

    Attributes:
        rows: counts and shares of each file by name.
        people: agreement of each file's annotators.
        errors: the first `MAX_LISTED` errors.
        warnings: the first `MAX_LISTED` warnings, and all of whole files.
        error_count: number of all errors.
        warning_count: number of all warnings.
    """

    rows: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    errors: list[Problem] = []
    warnings: list[Problem] = []
    error_count: int = 0
    warning_count: int = 0

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.error_count

    @property
    def problems(self) -> list[Problem]:
        """All errors, then all warnings; warnings about a whole file come first."""
        return self.errors + sorted(self.warnings, key=lambda problem: problem.line > 0)

    def add_error(self, problem: Problem) -> None:
        """Count an error, and keep it if there is room."""
        self.error_count += 1
        self.errors += [problem] if self.error_count <= MAX_LISTED else []

    def add_warning(self, problem: Problem) -> None:
        """Count a warning, and keep it if there is room or it is of a whole file."""
        self.warning_count += 1
        self.warnings += [problem] if len(self.warnings) < MAX_LISTED or not problem.line else []

    def as_table(self) -> list[tuple[Any, ...]]:
        """Return rows of a table: a name and its value in every file."""
        return [(name, *(row[name] for row in self.rows)) for name in (self.rows or [{}])[0]]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"ok": self.ok, **msgspec.to_builtins(self)}


def validate_files(
    paths: Sequence[Path],
    *,
    root: Path | None = None,
    check_images: bool = True,
    check_record: RecordCheck | None = None,
    max_tokens: int = 2048,
    on_line: Callable[[bytes, Record | Problem], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> ValidationReport:
    """Find the problems of files and their images, and count their labels and texts.

    Args:
        paths: the files, of any record class.
        root: the directory that image paths start in; by default that of each file.
        check_images: whether images are decoded and compared between files.
        check_record: says what is wrong with a record whose image is good.
        max_tokens: a text that seems to have more is warned of.
        on_line: called with the bytes of each line and the record or problem found there.
        on_progress: called every 1000 lines with the number of lines read since.
    """
    report, index = ValidationReport(), ImageIndex()
    for path in paths:
        kind = record_kind(path)
        statistics, directory = FileStatistics(path, kind, max_tokens), root or path.parent
        images = FileImages(path, directory, index) if check_images else None
        lines: Iterator[Line] = scan_file(path, kind)
        lines = _with_image_checks(lines, images) if images else lines
        if check_record:
            lines = _with_record_checks(lines, path, directory, check_record)
        for number, line, item in _with_progress(lines, on_progress) if on_progress else lines:
            statistics.add(item, number, len(line))
            if isinstance(item, Problem):
                report.add_error(item)
            if on_line:
                on_line(line, item)
        for warning in chain(statistics.warnings(), images.warnings() if images else ()):
            report.add_warning(warning)
        image_counts = images.row() if images else dict.fromkeys(IMAGE_NAMES)
        report.rows.append(statistics.row() | image_counts)
        report.people.append({"file": str(path), **statistics.annotators.metrics()})
    return report


def _with_image_checks(lines: Iterator[Line], images: FileImages) -> Iterator[Line]:
    """Yield the lines, with a problem instead of each record whose image is bad."""
    for number, line, item in lines:
        yield number, line, item if isinstance(item, Problem) else images.check(item, number)


def _with_record_checks(
    lines: Iterator[Line], path: Path, root: Path, check: RecordCheck
) -> Iterator[Line]:
    """Yield the lines, with a problem instead of each record that the check finds fault with."""
    for number, line, item in lines:
        wrong = "" if isinstance(item, Problem) else check(item, root)
        yield number, line, Problem(str(path), number, "", wrong) if wrong else item


def _with_progress(lines: Iterator[Line], on_progress: Callable[[int], None]) -> Iterator[Line]:
    """Yield the lines; report the number read since, every `_STRIDE` lines and at the end."""
    number = reported = 0
    for number, line, item in lines:
        yield number, line, item
        if number - reported >= _STRIDE:
            on_progress(number - reported)
            reported = number
    on_progress(number - reported)
