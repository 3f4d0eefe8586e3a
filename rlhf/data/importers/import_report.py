"""Count what an import wrote and what it left out."""

from collections import Counter
from dataclasses import dataclass, field

from rlhf.data.importers.fields import Skip

MAX_PROBLEMS = 20  # stored as text; further ones are only counted


@dataclass
class ImportReport:
    """Counts of records written and rows skipped by an import.

    Attributes:
        records: number of records.
        labels: number of preferences by label.
        skipped: number of rows and items left out, by reason.
        problems: the first skipped ones, as `file:row:column: reason`.
        images: number of distinct images.
        with_history: number of records with earlier turns.
        records_by_row: number of rows that gave no record, one, two and so on.
        image_markers: number of instructions that an `<image>` was removed from.
        notes: what was assumed in order to read the files.
    """

    records: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    images: int = 0
    with_history: int = 0
    records_by_row: Counter[int] = field(default_factory=Counter)
    image_markers: int = 0
    notes: list[str] = field(default_factory=list)

    def conversations_note(self, kind: str) -> str:
        """Say how many conversations gave several records of this kind; "" if none did."""
        several = {count: rows for count, rows in self.records_by_row.items() if count > 1}
        if not several or not self.with_history:
            return ""
        records = sum(count * rows for count, rows in several.items())
        return (
            f"{sum(several.values())} conversations gave {records} {kind}, one for each response, "
            f"with the turns before it; at most {max(several)} from one"
        )

    def count_skip(self, skip: Skip, where: str) -> None:
        """Count a skipped row or item.

        Args:
            skip: why.
            where: its place, `file:row`.
        """
        self.skipped[skip.reason] += 1
        if len(self.problems) < MAX_PROBLEMS:
            place = f"{where}:{skip.field}" if skip.field else where
            detail = f": {skip.detail[:200]}" if skip.detail else ""
            self.problems.append(f"{place}: {skip.reason}{detail}")
