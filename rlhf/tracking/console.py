"""What a person sees while a command runs: stages, progress, tables, errors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from time import monotonic

from rich import progress as rp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf.errors import RlhfError


@cache
def console() -> Console:
    """The one console, on stdout; `console().quiet = True` silences all but errors."""
    return Console(highlight=False)


def stage(title: str) -> None:
    """Announce the next part of the command."""
    say(f"\n{title}", "bold")


def say(text: str, style: str = "") -> None:
    """Print one text as it is, however long and whatever signs are in it."""
    console().print(Text(text, style=style), soft_wrap=True)


class Track:
    """Progress of one loop: a live bar when there is one, else plain lines."""

    def __init__(self, title: str, total: int, done: int, bar: rp.Progress | None) -> None:
        self._title, self._total, self._bar = title, max(total, 1), bar
        self._done, self._before, self._metrics = done, done, dict[str, float]()
        self._start = self._printed = monotonic()
        self._task = bar.add_task(title, total=total, completed=done, metrics="") if bar else None

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Count `n` more steps done and keep the latest metrics."""
        tenth, self._done = 10 * self._done // self._total, self._done + n
        self._metrics.update(metrics)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in self._metrics.items())
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, metrics=shown)
        elif 10 * self._done // self._total > tenth or monotonic() - self._printed >= 5:
            self._printed = monotonic()
            spent = self._printed - self._start
            left = spent * (self._total - self._done) / (self._done - self._before)
            line = f"{self._title}  {self._done}/{self._total}  {spent:.0f} s, {left:.0f} s left"
            console().print(Text(f"{line}  {shown}".rstrip()), soft_wrap=True)


@contextmanager
def track(title: str, total: int, done: int = 0) -> Iterator[Track]:
    """A live bar on a terminal; elsewhere a line at each tenth of `total` or after 5 seconds.

    Args:
        done: of `total`, what an earlier run did.
    """
    if not console().is_terminal:
        yield Track(title, total, done, None)
        return
    name, metrics = (
        rp.TextColumn(f"{{task.{x}}}", markup=False) for x in ("description", "fields[metrics]")
    )
    times = rp.MofNCompleteColumn(), rp.TimeElapsedColumn(), rp.TimeRemainingColumn()
    with rp.Progress(name, rp.BarColumn(), *times, metrics, console=console()) as bar:
        yield Track(title, total, done, bar)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows; floats with four digits, columns of numbers to the right."""
    sheet = Table(title=Text(title), title_justify="left")
    for place, column in enumerate(columns):
        numbers = all(isinstance(row[place], int | float) for row in rows)
        sheet.add_column(Text(column), justify="right" if numbers else "left")
    for row in rows:
        texts = (f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row)
        sheet.add_row(*map(Text, texts))
    console().print(sheet)


def print_error(error: RlhfError) -> None:
    """Three lines on stderr: what, where, what to do."""
    stderr = Console(stderr=True, highlight=False)
    stderr.print(Text(f"error: {error.what}", style="bold red"), soft_wrap=True)
    for label, line in (("where", error.where), ("to do", error.fix)):
        if line:
            stderr.print(Text(f"{label}: {line}"), soft_wrap=True)
