"""Write a run's metrics: to `metrics.jsonl` and to trackers, TensorBoard if none is named."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite, nan
from pathlib import Path
from typing import BinaryIO, Self

from torch import Tensor

from rlhf.storage.atomic import make_directory, replace_text, write_whole
from rlhf.tracking.console import say
from rlhf.tracking.metrics import check_names
from rlhf.tracking.reader import MetricsLine, read_lines
from rlhf.tracking.tensorboard import TensorBoardTracker, markdown_table
from rlhf.tracking.tracker import Sample, Tracker


class MetricsWriter:
    """Writes `metrics.jsonl` into a directory, and hands all metrics to trackers.

    If the disk is full, training continues: the values that cannot be written are lost, and the
    console warns once.

    Args:
        directory: where `metrics.jsonl` is written; made when missing. None: it is not written.
        purge_step: the first step of a resumed run; lines of this and later steps are dropped.
            None: keep every line.
        final_metrics: names in METRICS whose last values are recorded once more when a `with` block
            ends without an error; with them that the run succeeded.
        trackers: receive the metrics; None: a TensorBoardTracker of the directory, if there is one.
    """

    def __init__(
        self,
        directory: Path | None,
        purge_step: int | None = None,
        final_metrics: Sequence[str] = (),
        trackers: Sequence[Tracker] | None = None,
    ) -> None:
        self._last, self._step = dict.fromkeys(final_metrics, nan), 0
        lines = _earlier_lines(directory, purge_step) if directory else []
        for line in lines if final_metrics else []:
            self._remember(line)
        self._jsonl, self._complete = directory and _open_lines(directory, lines), True
        if trackers is None:
            trackers = [TensorBoardTracker(directory, purge_step)] if directory else []
        self.trackers = list(trackers)

    def hparams(self, options: Mapping[str, object]) -> None:
        """Record the options of a new run, by name."""
        for tracker in self.trackers:
            with self._survive_full_disk():
                tracker.hparams(options)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step; a value that is not finite becomes null in the JSON.

        Args:
            values: name to value.
            step: the step that they belong to.

        Raises:
            ValueError: a name is neither in METRICS nor begins with one of USER_METRICS.
        """
        check_names(values)
        line: dict[str, float | None] = {"step": step}
        line |= {name: float(x) if isfinite(x) else None for name, x in values.items()}
        self._remember(line)
        if self._jsonl:
            with self._survive_full_disk():
                write_whole(self._jsonl.fileno(), json.dumps(line).encode() + b"\n", sync=False)
        for tracker in self.trackers:
            with self._survive_full_disk():
                tracker.scalars(values, step)

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None:
        """Record distributions.

        Args:
            values: name to a tensor of any shape and dtype; an empty one is left out.
            step: the step that they belong to.
        """
        filled = {name: tensor for name, tensor in values.items() if tensor.numel()}
        for tracker in self.trackers:
            with self._survive_full_disk():
                tracker.histograms(filled, step)

    def samples(self, rows: Sequence[Sample], step: int) -> None:
        """Record sampled responses with their prompts."""
        for tracker in self.trackers:
            with self._survive_full_disk():
                tracker.samples(rows, step)

    def table(
        self, tag: str, columns: Sequence[str], rows: Iterable[Sequence[object]], step: int
    ) -> None:
        """Record a table whose texts have no effect in Markdown or HTML.

        Args:
            tag: its name.
            columns: the headings, shown as they are.
            rows: a cell for each column; floats are shown with three decimals.
            step: the step that it belongs to.
        """
        self.text(tag, markdown_table(columns, rows), step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Record a text in Markdown.

        Args:
            tag: its name.
            markdown: the text.
            step: the step that it belongs to.
        """
        for tracker in self.trackers:
            with self._survive_full_disk():
                tracker.text(tag, markdown, step)

    def close(self) -> None:
        """Write out what is pending and close the files."""
        for tracker in self.trackers:
            with self._survive_full_disk():
                tracker.close()
        if self._jsonl:
            self._jsonl.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None and self._last:
            self.finish()
        self.close()

    def finish(self) -> None:
        """Record that the run succeeded, and the last values of the final metrics."""
        values = {name: value for name, value in self._last.items() if isfinite(value)}
        for tracker in self.trackers:
            with self._survive_full_disk():
                tracker.finish(values, self._step)

    def _remember(self, line: Mapping[str, float | None]) -> None:
        """Remember the last values of the final metrics, NaN where one was not finite."""
        for name in self._last.keys() & line.keys():
            self._last[name] = nan if (value := line[name]) is None else value
        self._step = int(line["step"] or 0)

    @contextmanager
    def _survive_full_disk(self) -> Iterator[None]:
        """Catch an OSError and warn once: a full disk must not stop training."""
        try:
            yield
        except OSError as error:
            if self._complete:
                say(f"The curves are not complete from here: {error.strerror}.", "yellow")
            self._complete = False


def _earlier_lines(directory: Path, purge_step: int | None) -> list[MetricsLine]:
    """Read the sound lines of metrics.jsonl, without those from `purge_step` on."""
    lines = read_lines(directory / "metrics.jsonl")
    return [x for x in lines if purge_step is None or (x["step"] or 0) < purge_step]


def _open_lines(directory: Path, lines: Sequence[MetricsLine]) -> BinaryIO:
    """Open metrics.jsonl to append to these lines."""
    path = make_directory(directory) / "metrics.jsonl"
    replace_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))
    return path.open("ab", buffering=0)
