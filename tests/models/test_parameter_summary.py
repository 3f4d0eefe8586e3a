"""The summary counts every parameter of a model once, as it is stored."""

from pathlib import Path

import pytest

from rlhf.models.parameter_summary import ParameterGroup, summarize_parameters
from tests.support import tiny_models


@pytest.mark.parametrize("kind", ["none", "nf4", "int8"])
def test_every_parameter_is_counted_once_and_only_the_language_model_is_quantized(
    tiny: Path, kind: str
) -> None:
    model = tiny_models.load(tiny).model
    llava = tiny_models.load(tiny, quantization=kind)
    llava.adapters.add("policy", rank=4, alpha=8)
    parts = {(part.name, part.stored): part for part in summarize_parameters(llava)}
    factors = sum(value.numel() for value in llava.adapters.tensors("policy").values())
    assert parts.pop(("adapter policy", "float32")) == ParameterGroup(
        "adapter policy", "float32", factors, factors
    )
    assert sum(part.count for part in parts.values()) == sum(x.numel() for x in model.parameters())
    assert not any(part.trained for part in parts.values())
    # q, k, v, o of 32 × 32 and three of 32 × 64 in each of two layers
    linears = 2 * (4 * 32 * 32 + 3 * 32 * model.config.text_config.intermediate_size)
    norms = 5 * 32  # two in each layer and the last
    if kind == "none":
        assert parts["language model", "float32"].count == linears + norms
    else:
        assert parts["language model", kind].count == linears
        assert parts["language model", "float32"].count == norms
    names = {"vision tower", "projector", "output head", "embeddings", "language model"}
    assert {name for name, _ in parts} == names
    assert {stored for name, stored in parts if name != "language model"} == {"float32"}
