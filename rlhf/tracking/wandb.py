"""The tracker that sends metrics to Weights & Biases."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rlhf.tracking.optional import import_extra
from rlhf.tracking.tracker import Sample


class WandbTracker:
    """Sends metrics to Weights & Biases; the x axis of all curves is `step`.

    Args:
        **options: of `wandb.init`, e.g. `project="mine"`; `mode="offline"` keeps all on this
            machine, `id=…, resume="must"` continues a run.

    Raises:
        UsageError: wandb is not installed.
    """

    def __init__(self, **options: Any) -> None:
        self._wandb = import_extra("wandb", "wandb")
        self._run = self._wandb.init(**options)
        self._run.define_metric("*", step_metric="step")

    def hparams(self, options: Mapping[str, object]) -> None:
        """Record the options of a new run in its configuration."""
        self._run.config.update(dict(options), allow_val_change=True)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step, by name."""
        self._run.log({"step": step, **values})

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None:
        """Record distributions, by name."""
        arrays = {name: tensor.detach().float().cpu().flatten() for name, tensor in values.items()}
        drawn = {
            f"{name}_histogram": self._wandb.Histogram(x.numpy()) for name, x in arrays.items()
        }
        self._run.log({"step": step, **drawn})

    def samples(self, rows: Sequence[Sample], step: int) -> None:
        """Record sampled responses as images with their texts and scores."""
        images = [
            self._wandb.Image(
                row.image, caption=f"{row.instruction}\n{row.response}\nscore {row.score:.3f}"
            )
            for row in rows
        ]
        self._run.log({"step": step, "samples": images})

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Record a text as a table of one cell.

        Args:
            tag: its name.
            markdown: the text.
            step: the step that it belongs to.
        """
        table = self._wandb.Table(columns=["text"], data=[[markdown]])
        self._run.log({"step": step, tag: table})

    def finish(self, values: Mapping[str, float], step: int) -> None:
        """Record the last values of the metrics that runs are compared by."""
        self._run.summary.update(dict(values))

    def close(self) -> None:
        """Write out what is pending, and end the run."""
        self._run.finish()
