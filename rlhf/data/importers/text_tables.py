"""Read tables of text: CSV and TSV, as spreadsheets and scripts write them."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rlhf.data.importers.fields import Row, Skip

MAX_ROW = 64_000_000  # characters, and of its first cells; an image of 20 MB in base64 fits
MAX_HEADER, MAX_COLUMNS = 1_000_000, 1000  # characters of the first line, and its cells
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class TextTable:
    """A table whose first row names its columns, separated by commas, semicolons or tabs.

    The delimiter is the one that gives the first row the most columns. The encoding is that of
    the byte order mark, else UTF-8, or Windows-1252 where the bytes are no UTF-8.

    Args:
        path: the file.

    Raises:
        ValueError: it is no such table: another encoding, no delimiter, a column named twice.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._encoding = path, _encoding(path)
        csv.field_size_limit(MAX_ROW)
        with self._open() as lines:
            first = next(lines)
        if len(first) > MAX_HEADER:
            raise ValueError(f"its first line is over {MAX_HEADER // 10**6} MB")
        self._has_hint = first.lower().startswith("sep=") and len(first.strip()) <= 5
        if self._has_hint:  # Excel's own line, which names the delimiter
            self._delimiter = first[4:5]
        else:
            self._delimiter = max(_DELIMITERS, key=lambda mark: len(_cells(first, mark)))
        first_cells = next(self._cell_rows())[1]
        if len(first_cells) > MAX_COLUMNS:
            raise ValueError(f"it has over {MAX_COLUMNS:,} columns")
        names = enumerate(first_cells, 1)
        self.columns = [name.strip() or f"column {number}" for number, name in names]
        self._check_columns()

    @property
    def note(self) -> str:
        """How the file was read."""
        marks = _DELIMITERS.get(self._delimiter, repr(self._delimiter))
        names = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "utf-16": "UTF-16"}
        encoding = names.get(self._encoding, "Windows-1252")
        return f"read as a table separated by {marks}, in {encoding}"

    def count_rows(self) -> int:
        """Count the rows below the first."""
        return sum(1 for _ in self._cell_rows()) - 1

    def rows(self) -> Iterator[tuple[int, Row | Skip]]:
        """Yield each row below the first with the line it ends on; empty cells are left out."""
        cell_rows = self._cell_rows()
        next(cell_rows)
        for line, cells in cell_rows:
            if len(cells) == len(self.columns):
                pairs = zip(self.columns, cells, strict=True)
                yield line, {name: cell for name, cell in pairs if cell}
            else:
                found = f"{len(cells)} cells for {len(self.columns)} columns"
                yield line, Skip("other number of cells", detail=found)

    def _check_columns(self) -> None:
        if len(self.columns) < 2:
            raise ValueError("it is neither JSON, parquet nor a table with commas or tabs")
        twice = {name for name in self.columns if self.columns.count(name) > 1}
        if twice:
            raise ValueError(f"the column {min(twice)!r} is there twice")

    def _cell_rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the cells of each row that is not blank, with the line it ends on."""
        with self._open() as lines:
            if self._has_hint:
                next(lines)
            reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
            try:
                for cells in reader:
                    lines.in_row = 0
                    if any(cells):
                        yield reader.line_num + self._has_hint, cells
            except csv.Error as error:
                raise ValueError(f"line {reader.line_num + self._has_hint}: {error}") from error

    @contextmanager
    def _open(self) -> Iterator["_BoundedLines"]:
        with self._path.open(encoding=self._encoding, newline="") as file:
            yield _BoundedLines(file)


class _BoundedLines:
    """Iterates over the lines of a file, and refuses a row, of one line or several, without end.

    Attributes:
        in_row: characters since a row ended, which the reader of rows sets to 0.
    """

    def __init__(self, file: TextIO) -> None:
        self._file, self.in_row = file, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_ROW + 1 - self.in_row)
        if not line:
            raise StopIteration
        self.in_row += len(line)
        if self.in_row > MAX_ROW:
            raise ValueError(f"a row is over {MAX_ROW // 10**6} MB")
        return line


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _encoding(path: Path) -> str:
    """Tell a text file's encoding by its byte order mark, or by whether it is UTF-8."""
    with path.open("rb") as file:
        head = file.read(4)
    for mark, encoding in _BOMS.items():
        if head.startswith(mark):
            return encoding
    for encoding in ("utf-8", "cp1252"):
        try:
            with path.open(encoding=encoding, newline="") as text:
                while block := text.read(1 << 20):
                    if "\0" in block:
                        raise ValueError("it is no text")
            return encoding
        except UnicodeDecodeError:
            continue
    raise ValueError("it is neither UTF-8, UTF-16 nor Windows-1252")
