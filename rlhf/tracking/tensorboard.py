"""The tracker that writes TensorBoard events."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from rlhf.tracking.metrics import tensorboard_layout
from rlhf.tracking.tracker import Sample


class TensorBoardTracker:
    """Writes TensorBoard events into a directory.

    Args:
        directory: of the events.
        purge_step: the first step of a resumed run: TensorBoard hides this and later steps of
            before. None: a new run.
    """

    def __init__(self, directory: str | Path, purge_step: int | None = None) -> None:
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
        self._board._get_file_writer().add_summary(start)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step, by name."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None:
        """Record distributions, by name."""
        for name, tensor in values.items():
            self._board.add_histogram(name, tensor.detach().float().cpu(), step)

    def samples(self, rows: Sequence[Sample], step: int) -> None:
        """Record sampled responses: one text table, and each image with its response below."""
        for number, row in enumerate(rows):
            pixels = np.asarray(_captioned(row))
            self._board.add_image(f"samples/{number}", pixels, step, dataformats="HWC")
        cells = [(row.instruction, row.response, row.score) for row in rows]
        table = markdown_table(("instruction", "response", "score"), cells)
        self.text("samples", table, step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Record a text that TensorBoard shows as Markdown.

        Args:
            tag: its name.
            markdown: the text.
            step: the step that it belongs to.
        """
        self._board.add_text(tag, markdown, step)

    def finish(self, values: Mapping[str, float], step: int) -> None:
        """Record that the run succeeded, and last values as `Final/NAME`.

        TensorBoard shows the first five metrics by name at first, and capitals come first.

        Args:
            values: the last values of the metrics that runs are compared by.
            step: the last step.
        """
        for name, value in values.items():
            self._board.add_scalar(f"Final/{name}", value, step)
        _, _, end = hparams({}, {})
        self._board._get_file_writer().add_summary(end)

    def close(self) -> None:
        """Write out what is pending and close the file."""
        self._board.close()


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown whose texts have no effect in Markdown or HTML.

    Args:
        columns: the headings, as they are.
        rows: a cell for each column; floats get three decimals.
    """
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        lines.append([f"{x:.3f}" if isinstance(x, float) else _escaped(str(x)) for x in row])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
