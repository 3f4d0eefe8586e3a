"""The console output of a command: stages, progress, tables, errors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from time import monotonic
from typing import Any

from rich import progress as rp
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from rlhf.errors import RlhfError
from rlhf.tracking.activity import activity, depth

# Characters that command a terminal, but for newline and tab, by what is shown instead of them:
# ESC as ␛, those of the second set as �. Texts of a data set could else write anywhere (CWE-150).
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
CONTROLS |= {0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), 0xFFFD)}


class TimedConsole(Console):
    """A console that shows control characters, and knows when it has printed last.

    Attributes:
        last_output: seconds of `time.monotonic`, a live view included; 0: never.
    """

    last_output = 0.0

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Yield the segments of an object; what commands the terminal in its text is shown."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(segment.text.translate(CONTROLS), segment.style)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich` does."""
        super().print(*objects, **options)
        self.last_output = monotonic()


@cache
def console() -> TimedConsole:
    """Return the one console, on stdout; `console().quiet = True` silences all but errors."""
    return TimedConsole(highlight=False)


def stage(title: str) -> None:
    """Announce the next part of the command."""
    say(f"\n{title}", "bold")


def say(text: str, style: str = "") -> None:
    """Print a text as it is: nothing in it is markup, and long lines are not wrapped."""
    console().print(Text(text, style=style), soft_wrap=True)


@cache
def say_once(text: str) -> None:
    """Print a text, unless this process has printed it before."""
    say(text)


class Track:
    """The progress of one loop, shown as a live bar or as plain lines.

    Args:
        title: what the loop does.
        total: steps of the loop.
        done: steps that an earlier run did.
        bar: the live bar; None: plain lines.
    """

    def __init__(self, title: str, total: int, done: int, bar: rp.Progress | None) -> None:
        self._title, self._total, self._bar = title, max(total, 1), bar
        self._done, self._before, self._metrics = done, done, dict[str, float]()
        self._start = self._printed = monotonic()
        self._task = bar.add_task(title, total=total, completed=done, metrics="") if bar else None

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Count steps as done, and show the progress.

        Args:
            n: steps done since the last call.
            **metrics: values shown beside the progress until a later call changes them.
        """
        tenth, self._done = 10 * self._done // self._total, self._done + n
        self._metrics.update(metrics)
        metrics_text = "  ".join(f"{name} {value:.4g}" for name, value in self._metrics.items())
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, metrics=metrics_text)
        elif 10 * self._done // self._total > tenth or monotonic() - self._printed >= 5:
            self._printed = monotonic()
            elapsed = self._printed - self._start
            remaining = elapsed * (self._total - self._done) / (self._done - self._before)
            times = f"{elapsed:.0f} s, {remaining:.0f} s left"
            line = f"{self._title}  {self._done}/{self._total}  {times}  {metrics_text}"
            console().print(Text(line.rstrip()), soft_wrap=True)


class ActivityColumn(rp.ProgressColumn):
    """What is in progress at this moment, inside what was when the bar began."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = depth()

    def render(self, task: rp.Task) -> Text:
        """Return the text of the column; a bar that is done has none."""
        return Text("" if task.finished else activity(self._depth), style="dim")


@contextmanager
def track(title: str, total: int, done: int = 0) -> Iterator[Track]:
    """Show the progress of a loop.

    On a terminal it is a live bar; elsewhere a line at each tenth of `total`, and after 5 seconds.

    Args:
        title: what the loop does.
        total: steps of the loop.
        done: steps that an earlier run did.

    Yields:
        A Track; call its `advance` after each step.
    """
    if not console().is_terminal:
        yield Track(title, total, done, None)
        return
    name, metrics = (
        rp.TextColumn(f"{{task.{x}}}", markup=False) for x in ("description", "fields[metrics]")
    )
    times = rp.MofNCompleteColumn(), rp.TimeElapsedColumn(), rp.TimeRemainingColumn()
    columns = name, rp.BarColumn(), *times, metrics, ActivityColumn()
    with rp.Progress(*columns, console=console()) as bar:
        yield Track(title, total, done, bar)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; floats have four digits, and columns of numbers are aligned to the right.

    Args:
        title: printed above.
        columns: headings.
        rows: a cell for each column.
    """
    sheet = Table(title=Text(title), title_justify="left")
    for index, column in enumerate(columns):
        numbers = all(isinstance(row[index], int | float) for row in rows)
        sheet.add_column(Text(column), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        texts = (f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row)
        sheet.add_row(*map(Text, texts))
    console().print(sheet)


def print_error(error: RlhfError) -> None:
    """Print an error on stderr in three lines: what, where, what to do."""
    stderr = TimedConsole(stderr=True, highlight=False)
    stderr.print(Text(f"error: {error.what}", style="bold red"), soft_wrap=True)
    for label, line in (("where", error.where), ("to do", error.fix)):
        if line:
            stderr.print(Text(f"{label}: {line}"), soft_wrap=True)
