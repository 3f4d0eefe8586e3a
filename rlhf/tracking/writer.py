"""Write a run's metrics: TensorBoard events and `metrics.jsonl`."""

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from rlhf.storage.atomic import write_whole
from rlhf.tracking.console import say
from rlhf.tracking.metrics import METRICS, tensorboard_layout
from rlhf.tracking.reader import complete_lines


@dataclass(frozen=True)
class Sample:
    """A sampled response with its prompt, for TensorBoard.

    Attributes:
        image: the image of the prompt.
        instruction: the text of the prompt.
        response: the sampled text.
        score: the reward model's score of the response.
    """

    image: Image.Image
    instruction: str
    response: str
    score: float


class MetricsWriter:
    """Writes TensorBoard events and `metrics.jsonl` into one directory.

    If the disk is full, training continues: the values that cannot be written are lost, and the
    console warns once.

    Args:
        directory: where both are written; made when missing.
        purge_step: the first step of a resumed run; lines of this and later steps are dropped.
            None: keep every line.
        final_metrics: names in METRICS whose last values are recorded once more when a `with` block
            ends without an error, as `Final/NAME`; with them that the run succeeded.
    """

    def __init__(
        self, directory: Path, purge_step: int | None = None, final_metrics: Sequence[str] = ()
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path, temporary = directory / "metrics.jsonl", directory / "metrics.tmp"
        lines = complete_lines(path)
        if purge_step is not None:
            lines = [line for line in lines if json.loads(line)["step"] < purge_step]
        self._last = dict.fromkeys(final_metrics, nan)
        self._step = 0
        for line in lines if final_metrics else []:
            self._remember(json.loads(line))
        temporary.write_text("".join(f"{line}\n" for line in lines))
        self._jsonl = temporary.replace(path).open("ab", buffering=0)
        self._complete = True
        self._board = SummaryWriter(str(directory), purge_step=purge_step, flush_secs=10)
        if purge_step is None:
            self._board.add_custom_scalars(tensorboard_layout())

    def hparams(self, options: Mapping[str, object]) -> None:
        """Record the options of a run for TensorBoard's page HPARAMS.

        Call it once per run: TensorBoard reads only the first record. It makes the columns of its
        table from all runs only if none of them records an experiment, so none is recorded: that of
        a single run would hide the options and metrics that other runs have.

        Args:
            options: name to value; other types than numbers and texts are recorded as text.
        """
        _, start, _ = hparams({name: _plain(value) for name, value in options.items()}, {})
        self._add_summary(start)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step; a value that is not finite becomes null in the JSON.

        Args:
            values: name, as in METRICS, to value.
            step: the step that they belong to.

        Raises:
            ValueError: METRICS lacks one of the names.
        """
        if unknown := sorted(values.keys() - METRICS.keys()):
            raise ValueError(f"values: got {', '.join(unknown)}, wanted names of METRICS")
        line: dict[str, float | None] = {"step": step}
        line |= {name: float(x) if isfinite(x) else None for name, x in values.items()}
        self._remember(line)
        with self._survive_full_disk():
            write_whole(self._jsonl.fileno(), json.dumps(line).encode() + b"\n", sync=False)
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None:
        """Record distributions.

        Args:
            values: name to a tensor of any shape and dtype; an empty one is left out.
            step: the step that they belong to.
        """
        with self._survive_full_disk():
            for name, tensor in values.items():
                if tensor.numel():
                    self._board.add_histogram(name, tensor.detach().float().cpu(), step)

    def samples(self, rows: Sequence[Sample], step: int) -> None:
        """Record sampled responses: one text table, and each image with its response below."""
        with self._survive_full_disk():
            for number, row in enumerate(rows):
                pixels = np.asarray(_captioned(row))
                self._board.add_image(f"samples/{number}", pixels, step, dataformats="HWC")
        cells = [(row.instruction, row.response, row.score) for row in rows]
        self.table("samples", ("instruction", "response", "score"), cells, step)

    def table(
        self, tag: str, columns: Sequence[str], rows: Iterable[Sequence[object]], step: int
    ) -> None:
        """Record a table whose texts have no effect in Markdown or HTML.

        Args:
            tag: its name in TensorBoard.
            columns: the headings, shown as they are.
            rows: a cell for each column; floats are shown with three decimals.
            step: the step that it belongs to.
        """
        lines = [columns, ["---"] * len(columns)]
        for row in rows:
            lines.append([f"{x:.3f}" if isinstance(x, float) else _escaped(str(x)) for x in row])
        self.text(tag, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Record a text that TensorBoard shows as Markdown.

        Args:
            tag: its name in TensorBoard.
            markdown: the text.
            step: the step that it belongs to.
        """
        with self._survive_full_disk():
            self._board.add_text(tag, markdown, step)

    def close(self) -> None:
        """Write out what is pending and close both files."""
        with self._survive_full_disk():
            self._board.close()
        self._jsonl.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None and self._last:
            self._finish()
        self.close()

    def _remember(self, line: Mapping[str, float | None]) -> None:
        """Remember the last values of the final metrics, NaN where one was not finite."""
        for name in self._last.keys() & line.keys():
            self._last[name] = nan if (value := line[name]) is None else value
        self._step = int(line["step"] or 0)

    def _finish(self) -> None:
        """Record that the run succeeded, and the last values of the final metrics.

        TensorBoard shows the first five metrics by name at first, and capitals come first.
        """
        with self._survive_full_disk():
            for name, value in self._last.items():
                if isfinite(value):
                    self._board.add_scalar(f"Final/{name}", value, self._step)
        _, _, end = hparams({}, {})
        self._add_summary(end)

    def _add_summary(self, summary: object) -> None:
        with self._survive_full_disk():
            self._board._get_file_writer().add_summary(summary)

    @contextmanager
    def _survive_full_disk(self) -> Iterator[None]:
        """Catch an OSError and warn once: a full disk must not stop training."""
        try:
            yield
        except OSError as error:
            if self._complete:
                say(f"The curves are not complete from here: {error.strerror}.", "yellow")
            self._complete = False


def _plain(value: object) -> int | float | str:
    """Return a number or a text as it is, and any other value as text, also true and false."""
    return value if isinstance(value, int | float | str) and type(value) is not bool else str(value)


def _escaped(text: str) -> str:
    """Return a text in one line, without effect in Markdown, HTML or a table."""
    return re.sub(r"[^\w\s.,?!']|_", lambda x: f"&#{ord(x[0])};", " ".join(text.split()))


def _captioned(row: Sample, width: int = 320) -> Image.Image:
    """Draw the image, `width` pixels wide, with instruction, response and score below."""
    height = max(1, round(row.image.height * width / row.image.width))
    enlarged = row.image.width < width
    resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    texts = (row.instruction, row.response, f"score {row.score:.3f}")
    lines = [line for text in texts for line in textwrap.wrap(text, 44)]
    sheet = Image.new("RGB", (width, height + 18 * len(lines) + 10), "white")
    sheet.paste(row.image.convert("RGB").resize((width, height), resampling))
    font, position = ImageFont.load_default(size=14), (6, height + 4)
    ImageDraw.Draw(sheet).multiline_text(position, "\n".join(lines), "black", font)
    return sheet
