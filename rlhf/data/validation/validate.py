"""`rlhf validate`: what to know about data files before training on them."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from rlhf.data.records import Problem, Record, record_kind, scan_file
from rlhf.data.validation.file_statistics import FileStatistics
from rlhf.data.validation.image_checks import IMAGE_NAMES, FileImages, ImageIndex

MAX_LISTED = 1000  # problems of each sort that are kept; the rest are only counted
_STRIDE = 1000  # lines between two reports of progress
Line = tuple[int, bytes, Record | Problem]  # number, bytes, what was read there


class ValidationReport(msgspec.Struct):
    """A row of named values for each file; errors stop a training, warnings want a look."""

    rows: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []  # what the annotators of each file agree on
    errors: list[Problem] = []  # the first `MAX_LISTED` of `error_count`
    warnings: list[Problem] = []
    error_count: int = 0
    warning_count: int = 0

    @property
    def ok(self) -> bool:
        """No errors."""
        return not self.error_count

    @property
    def problems(self) -> list[Problem]:
        """Errors, then warnings: those of whole files first."""
        return self.errors + sorted(self.warnings, key=lambda problem: problem.line > 0)

    def add_error(self, problem: Problem) -> None:
        """Count an error."""
        self.error_count += 1
        self.errors += [problem] if self.error_count <= MAX_LISTED else []

    def add_warning(self, problem: Problem) -> None:
        """Count a warning; those of whole files are always kept."""
        self.warning_count += 1
        self.warnings += [problem] if len(self.warnings) < MAX_LISTED or not problem.line else []

    def as_table(self) -> list[tuple[Any, ...]]:
        """Each name with its value in every file."""
        return [(name, *(row[name] for row in self.rows)) for name in (self.rows or [{}])[0]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ok": self.ok, **msgspec.to_builtins(self)}


def validate_files(
    paths: Sequence[Path],
    *,
    root: Path | None = None,
    check_images: bool = True,
    on_line: Callable[[bytes, Record | Problem], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> ValidationReport:
    """All problems of some files and their images, and what their labels and texts are like.

    Args:
        root: where image paths start, by default in the directory of each file.
        on_line: called with the bytes of each line and the record or the problem found there.
        on_progress: called now and then with the lines read since.
    """
    report, album = ValidationReport(), ImageIndex()
    for path in paths:
        kind = record_kind(path)
        tally = FileStatistics(path, kind)
        file_images = FileImages(path, root or path.parent, album) if check_images else None
        lines: Iterator[Line] = scan_file(path, kind)
        lines = _checked(lines, file_images) if file_images else lines
        for number, line, item in _watched(lines, on_progress) if on_progress else lines:
            tally.add(item, number, len(line))
            if isinstance(item, Problem):
                report.add_error(item)
            if on_line:
                on_line(line, item)
        for warning in chain(tally.warnings(), file_images.warnings() if file_images else ()):
            report.add_warning(warning)
        images = file_images.row() if file_images else dict.fromkeys(IMAGE_NAMES)
        report.rows.append(tally.row() | images)
        report.people.append({"file": str(path), **tally.people.metrics()})
    return report


def _checked(lines: Iterator[Line], images: FileImages) -> Iterator[Line]:
    """The lines, a record replaced by what is wrong with its image."""
    for number, line, item in lines:
        yield number, line, item if isinstance(item, Problem) else images.check(item, number)


def _watched(lines: Iterator[Line], on_progress: Callable[[int], None]) -> Iterator[Line]:
    """The lines; tells how many more were taken, now and then and at the end."""
    number = told = 0
    for number, line, item in lines:
        yield number, line, item
        if number - told >= _STRIDE:
            on_progress(number - told)
            told = number
    on_progress(number - told)
