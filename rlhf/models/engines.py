"""Who samples responses: the decode loop of this package, or transformers' own."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from rlhf.config import EngineKind, SamplingConfig
from rlhf.models.generation import generate
from rlhf.models.llava import Llava
from rlhf.models.stock_generation import stock_generate
from rlhf.types import PromptBatch, Responses


class Engine(Protocol):
    """Samples a response to each prompt; see `generate`. All engines draw the same tokens."""

    def __call__(
        self,
        llava: Llava,
        prompts: PromptBatch,
        sampling: SamplingConfig,
        *,
        seed: int = 0,
        iteration: int = 0,
        samples: Tensor | None = None,
        on_chunk: Callable[[int], None] = ...,
    ) -> tuple[Responses, Tensor]:
        """The responses, and [N] float32 the log-probability of each token when it was drawn."""


ENGINES: dict[EngineKind, Engine] = {"own": generate, "reference": stock_generate}
