"""Table of the engines that sample responses: the native decode loop, and transformers."""

from rlhf.config.choices import EngineKind
from rlhf.generation.sampler import BatchGenerator, generate_batch
from rlhf.generation.transformers_engine import hf_generate_batch

ENGINES: dict[EngineKind, BatchGenerator] = {
    "native": generate_batch,
    "transformers": hf_generate_batch,
}
