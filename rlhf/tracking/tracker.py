"""The interface of trackers, which receive the metrics of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """A sampled response with its prompt.

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


class Tracker(Protocol):
    """Receives the metrics of a run, e.g. to draw curves.

    Steps never go back, except in a run that is resumed: it repeats what came after its checkpoint.
    An OSError that a tracker raises is shown once, and the run goes on.
    """

    def hparams(self, options: Mapping[str, object]) -> None:
        """Record the options of a new run, by dotted name; called once, not when it is resumed."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step, by name; some may be NaN.

        Args:
            values: name to value.
            step: the step that they belong to.
        """

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None:
        """Record distributions.

        Args:
            values: name to a tensor of any shape and dtype, not empty.
            step: the step that they belong to.
        """

    def samples(self, rows: Sequence[Sample], step: int) -> None:
        """Record sampled responses.

        Args:
            rows: the samples.
            step: the step that they belong to.
        """

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Record a text in Markdown.

        Args:
            tag: its name.
            markdown: the text.
            step: the step that it belongs to.
        """

    def finish(self, values: Mapping[str, float], step: int) -> None:
        """Record that the run has succeeded; called once, before `close`.

        Args:
            values: the last values of the metrics that runs are compared by.
            step: the last step.
        """

    def close(self) -> None:
        """Write out what is pending."""
