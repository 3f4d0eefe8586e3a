"""Recognize which dataset a file is, by its columns and its first rows."""

from itertools import islice
from pathlib import Path

from rlhf.data.importers.datasets import DATASETS, Kind, best_fits
from rlhf.data.importers.fields import Row, Skip
from rlhf.data.importers.readers import OpenedRows, open_rows
from rlhf.errors import DataError, UsageError

SAMPLE_ROWS = 20  # rows that a format is tried on


def detect_dataset(path: Path, kind: Kind | None = None) -> str:
    """Return the name of the dataset whose format fits a file.

    Of the formats whose columns the file has, those count that can read one of its first rows;
    where none can, the columns decide.

    Args:
        path: the file.
        kind: what the rows shall become; None: whatever the file holds.

    Raises:
        DataError: no format fits.
        UsageError: several fit.
    """
    opened = open_rows(path)
    rows = _sample(opened)
    readable = [name for name in DATASETS if any(_reads(name, row) for row in rows)]
    fitting = best_fits(opened.columns, kind, readable) or best_fits(opened.columns, kind)
    if not fitting:
        raise _no_fit(path, opened.columns, kind)
    if len(fitting) > 1:
        fix = f"name the source: rlhf import {fitting[0]} {path}"
        raise UsageError(f"several formats fit: {', '.join(fitting)}", str(path), fix)
    return fitting[0]


def telling_columns(name: str, path: Path) -> list[str]:
    """List the columns of a file by which it was recognized.

    Args:
        name: the dataset that it was recognized as.
        path: the file.
    """
    columns = open_rows(path).columns
    groups = (*DATASETS[name].columns, *DATASETS[name].telltales)
    found = [next(column for column in group if column in columns) for group in groups]
    return list(dict.fromkeys(found))


def _no_fit(path: Path, columns: frozenset[str], kind: Kind | None) -> DataError:
    has = ", ".join(sorted(columns)) or "none"
    fix = "rename the columns to those of a table: image_path, instruction, chosen, rejected"
    what = f"no format of {kind} fits its columns" if kind else "no format fits its columns"
    return DataError(what, f"{path}: has {has}", fix)


def _sample(opened: OpenedRows) -> list[Row]:
    rows = (row for _, row in islice(opened.rows, SAMPLE_ROWS))
    return [row for row in rows if not isinstance(row, Skip)]


def _reads(name: str, row: Row) -> bool:
    """Whether a format makes something of a row."""
    try:
        return any(not isinstance(item, Skip) for item in DATASETS[name].items(row))
    except Skip:
        return False
