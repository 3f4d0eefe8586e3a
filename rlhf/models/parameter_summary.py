"""Count the parameters of a LLaVA by part, with their dtype and how many are trainable."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from rlhf.models.llava import Llava
from rlhf.models.quantization import quantization_of

PARTS = {  # substring of a parameter's name to its part; the first match counts
    "vision_tower": "vision tower",
    "multi_modal_projector": "projector",
    "image_newline": "projector",
    "lm_head": "output head",
    "embed_tokens": "embeddings",
}


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters of one part of the model that share a dtype or quantization.

    Attributes:
        name: of the part, e.g. `vision tower`.
        stored: dtype, or the kind of quantization.
        count: number of parameters.
        trained: number of them that are trainable.
    """

    name: str
    stored: str
    count: int
    trained: int


def summarize_parameters(llava: Llava) -> list[ParameterGroup]:
    """Group the parameters of a model by part and dtype, sorted by name.

    A weight that two layers share is counted once. Each adapter is a part of its own.
    """
    counts, trained = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for name, stored, count, trains in _weights(llava.model):
        part = next((part for word, part in PARTS.items() if word in name), "language model")
        if ".lora_" in name:
            part = f"adapter {name.rsplit('.', 2)[1]}"
        counts[part, stored] += count
        trained[part, stored] += count * trains
    return [ParameterGroup(*key, counts[key], trained[key]) for key in sorted(counts)]


def _weights(model: nn.Module) -> Iterator[tuple[str, str, int, bool]]:
    """Name, dtype, number of parameters and whether they are trainable, of every weight."""
    seen = set[int]()
    for prefix, module in model.named_modules():
        for name, value in module.named_parameters(prefix, recurse=False):
            if id(value) in seen:
                continue
            seen.add(id(value))
            stored = quantization_of(module) if name.endswith("weight") else ""
            count = module.in_features * module.out_features if stored else value.numel()
            dtype = str(value.dtype).removeprefix("torch.")
            yield name, stored or dtype, int(count), value.requires_grad
