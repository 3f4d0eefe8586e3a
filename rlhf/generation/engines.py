"""Table of the engines that sample responses: the native decode loop, and transformers."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from rlhf.config.schema import EngineKind, SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.generation.transformers_engine import hf_generate
from rlhf.models.llava import Llava
from rlhf.types import PromptBatch, Responses, SampledTokens


class Engine(Protocol):
    """Samples a response to each prompt; all engines sample the same tokens."""

    def __call__(
        self,
        llava: Llava,
        prompts: PromptBatch,
        sampling: SamplingConfig,
        *,
        seed: int = 0,
        iteration: int = 0,
        samples: Tensor | None = None,
        return_hidden_states: bool = False,
        on_chunk: Callable[[int], None] = ...,
    ) -> tuple[Responses, SampledTokens]:
        """Sample responses; see `generate`."""


ENGINES: dict[EngineKind, Engine] = {"native": generate, "transformers": hf_generate}
