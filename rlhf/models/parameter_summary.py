"""What a LLaVA consists of: how many numbers each part has, how they are stored, which train."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from rlhf.models.llava import Llava
from rlhf.models.quantization import quantization_of

PLACES = {  # a word in a parameter's name to the part it belongs to; the first that is there
    "vision_tower": "vision tower",
    "multi_modal_projector": "projector",
    "image_newline": "projector",
    "lm_head": "output head",
    "embed_tokens": "embeddings",
}


@dataclass(frozen=True)
class ParameterGroup:
    """A part of the model; `trained` of its `count` parameters train."""

    name: str
    stored: str
    count: int
    trained: int


def summarize_parameters(llava: Llava) -> list[ParameterGroup]:
    """The parts of a model in the order of their names, one for each way of storage.

    A weight that two layers share is counted once. Adapters are parts by their role.
    """
    counts, trained = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for name, stored, count, trains in _weights(llava.model):
        place = next((part for word, part in PLACES.items() if word in name), "language model")
        if ".lora_" in name:
            place = f"adapter {name.rsplit('.', 2)[1]}"
        counts[place, stored] += count
        trained[place, stored] += count * trains
    return [ParameterGroup(*key, counts[key], trained[key]) for key in sorted(counts)]


def _weights(model: nn.Module) -> Iterator[tuple[str, str, int, bool]]:
    """Name, storage, how many numbers, and whether they train, of every weight."""
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
