"""`rlhf validate`: what to know about data files before training on them."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from rlhf.data import records
from rlhf.data.images import load_image, picture_digest
from rlhf.data.records import CandidatesRecord, PreferenceRecord, Problem, Record
from rlhf.errors import DataError

MAX_SIDE_SHARE = 0.9  # of the decided pairs won by one side: above, the labels are one-sided
MAX_LONGER_SHARE = 0.8  # won by the longer answer: above, length is what is learnt
MIN_PAIRS = 20  # fewer pairs reach such shares by chance

_COUNTS = ("records", "usable", "response_a", "response_b", "tie", "duplicates", "contradictions")
_MEANS = ("words per instruction", "words per response", "share won by a", "share won by longer")
_IMAGES = ("images found", "images distinct", "images of earlier files")


class Report(msgspec.Struct):
    """A row of named values for each file; errors stop a training, warnings want a look."""

    rows: list[dict[str, Any]] = []
    errors: list[Problem] = []
    warnings: list[Problem] = []

    @property
    def ok(self) -> bool:
        """No errors."""
        return not self.errors

    def as_table(self) -> list[tuple[Any, ...]]:
        """Each name with its value in every file."""
        names = ("file", "kind", *_COUNTS, *_MEANS, *_IMAGES)
        return [(name, *(row[name] for row in self.rows)) for name in names]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ok": self.ok, **msgspec.to_builtins(self)}


def validate_files(
    paths: Sequence[Path],
    *,
    root: Path | None = None,
    check_images: bool = True,
    on_progress: Callable[[Path, int], None] | None = None,
) -> Report:
    """All problems of some files and their pictures, and what their labels and texts are like.

    Args:
        root: where image paths start, by default in the folder of each file.
        on_progress: called with file and line number after each line.
    """
    report, owners = Report(), dict[str, Path]()
    look = cache(partial(_digest_and_fault, faults={}))
    for path in paths:
        file = _File(path, report)
        for line, item in records.parse_file(path, file.kind):
            if check_images and not isinstance(item, Problem):
                item = file.pictured(item, line, root or path.parent, look)
            file.add(item, line)
            if on_progress:
                on_progress(path, line)
        file.close(owners)
    return report


def _digest_and_fault(path: Path, faults: dict[str, str]) -> tuple[str, str]:
    """Content hash and fault ("" for none) of a picture; each content is decoded once."""
    digest = ""
    try:
        digest = picture_digest(path)
        if digest not in faults:
            faults[digest] = ""
            load_image(path)
    except DataError as error:
        faults[digest] = error.what
    return digest, faults[digest]


class _File:
    """What one file adds up to; `close` writes its row."""

    def __init__(self, path: Path, report: Report) -> None:
        self.path, self.report, self.kind = path, report, records.record_kind(path)
        self.counts = dict.fromkeys(_COUNTS, 0)
        self.values: dict[str, list[int]] = {name: [] for name in _MEANS}
        self.seen: dict[str | int, tuple[int, str]] = {}  # id or texts: their line and winner
        self.images: list[str] = []

    def pictured(
        self, record: Record, line: int, root: Path, look: Callable[[Path], tuple[str, str]]
    ) -> Record | Problem:
        """The record, or what is wrong with its picture."""
        try:
            digest, fault = look(records.resolve_image(record.image_path, root))
        except DataError as error:
            fault = error.what
        if fault:
            return Problem(str(self.path), line, "image_path", fault)
        self.images.append(digest)
        return record

    def add(self, item: Record | Problem, line: int) -> None:
        """Count one line."""
        self.counts["records"] += line > 0
        if isinstance(item, Problem):
            self.report.errors.append(item)
            return
        responses, winner = _responses(item), ""
        self.counts["usable"] += 1
        self.values["words per instruction"].append(_words(item.instruction))
        self.values["words per response"].extend(map(_words, responses))
        if isinstance(item, PreferenceRecord):
            self.counts[item.preference] += 1
            if item.preference != "tie":
                winner = records.chosen(item)
                lead = _words(winner) - _words(records.rejected(item))
                self.values["share won by a"].append(item.preference == "response_a")
                self.values["share won by longer"] += [lead > 0] if lead else []
        texts = hash((item.image_path, item.instruction, *sorted(responses)))
        self._compare(line, texts, winner, item.id)

    def _compare(self, line: int, texts: int, winner: str, name: str) -> None:
        first, other = self.seen.setdefault(texts, (line, winner))
        if first != line:
            opposite = winner and other and winner != other
            self.counts["contradictions" if opposite else "duplicates"] += 1
            relation = "the opposite label of" if opposite else "the same picture and texts as"
            self._warn(line, "preference" if opposite else "", f"{relation} line {first}")
        if name and (first := self.seen.setdefault(name, (line, ""))[0]) != line:
            self._warn(line, "id", f"the same id as line {first}")

    def _warn(self, line: int, field: str, message: str) -> None:
        self.report.warnings.append(Problem(str(self.path), line, field, message))

    def close(self, owners: dict[str, Path]) -> None:
        """Write the row, and warn of what the file as a whole shows."""
        distinct = set(self.images)
        shared = distinct & owners.keys()
        images = (len(self.images), len(distinct), len(shared))
        kind = self.kind.__name__.removesuffix("Record").lower()
        means = {name: round(fmean(v), 3) if v else None for name, v in self.values.items()}
        row = {"file": str(self.path), "kind": kind, **self.counts, **means}
        self.report.rows.append(row | dict(zip(_IMAGES, images, strict=True)))
        if shared:
            files = ", ".join(sorted({str(owners[digest]) for digest in shared}))
            self._warn(0, "image_path", f"{len(shared)} pictures are also in {files}")
        owners.update(dict.fromkeys(distinct - shared, self.path))
        share_a, longer = (
            means[name] if len(self.values[name]) >= MIN_PAIRS else None for name in _MEANS[2:]
        )
        if share_a is not None and max(share_a, 1 - share_a) > MAX_SIDE_SHARE:
            self._warn(0, "preference", f"one-sided: response_a wins {share_a:.0%} of the pairs")
        if longer is not None and longer > MAX_LONGER_SHARE:
            self._warn(0, "preference", f"length bias: the longer wins {longer:.0%} of the pairs")


def _responses(record: Record) -> list[str]:
    if isinstance(record, CandidatesRecord):
        return record.responses
    names = (name for name in record.__struct_fields__ if name.startswith("response"))
    return [getattr(record, name) for name in names]


def _words(text: str) -> int:
    return len(text.split())
