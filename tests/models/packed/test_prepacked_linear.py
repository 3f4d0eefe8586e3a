"""While tokens are drawn, linear layers multiply by copies of their weights, and only then."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rlhf.config.schema import SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.kernels.prepacked_gemm import can_prepack
from rlhf.models.packed import prepacked_linear as module
from rlhf.models.packed.prepacked_linear import MIN_CALLS, prepacked_layers
from tests.support import tiny_models


class Other(nn.Linear):
    """A linear layer of a class of its own, as quantized ones are."""


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 16, bias=False), Other(16, 8))


def changed(model: nn.Module) -> list[bool]:
    return ["forward" in vars(layer) for layer in model]  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", [(5, 24), (1, 8, 24)])
def test_products_are_those_of_the_layers(shape: tuple[int, ...]) -> None:
    model, x = layers(), torch.randn(shape)
    with torch.no_grad():
        expected = model(x)
        with prepacked_layers(model, rows=8, calls=MIN_CALLS, dtype=None):
            assert changed(model) == [can_prepack(model[0].weight, torch.float32)] * 2 + [False]  # type: ignore[arg-type]
            product = model(x)
            model[0].weight.zero_()  # type: ignore[operator]  # not what is multiplied by
            torch.testing.assert_close(model(x), product, atol=0, rtol=0)
    assert changed(model) == [False] * 3
    torch.testing.assert_close(product, expected, atol=1e-5, rtol=1e-5)


def test_a_dtype_narrows_weights_as_autocast_does() -> None:
    model, x = layers()[:2], torch.randn(4, 24)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            expected = model(x)
        with prepacked_layers(model, rows=4, calls=MIN_CALLS, dtype=torch.bfloat16):
            product = model(x).to(torch.bfloat16)
    torch.testing.assert_close(product, expected, atol=2e-2, rtol=2e-2)


def test_layers_are_not_prepacked_where_it_would_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layers()
    with prepacked_layers(model, rows=8, calls=MIN_CALLS - 1, dtype=None):
        assert not any(changed(model))
    size = 4 * sum(layer.weight.numel() for layer in (model[0], model[1]))  # type: ignore[operator, union-attr]
    for limit, expected in ((size, True), (size - 1, False)):
        monkeypatch.setattr(module, "LIMIT", limit)
        with prepacked_layers(model, rows=8, calls=MIN_CALLS, dtype=None):
            assert any(changed(model)) is expected


def test_a_layer_with_its_own_forward_keeps_it() -> None:
    model = layers()
    custom_forward = model[0].forward = lambda x: torch.zeros(len(x), 40)
    with prepacked_layers(model, rows=8, calls=MIN_CALLS, dtype=None), torch.no_grad():
        assert model[0].forward is custom_forward
    assert changed(model) == [True, False, False]


def test_greedy_responses_are_the_same(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llava = tiny_models.load(tiny)
    prompts, greedy = (
        tiny_models.prompts_of(llava, tiny),
        SamplingConfig(temperature=0, max_new_tokens=9),
    )
    prepacked_steps: list[bool] = []
    first = llava.model.model.language_model.layers[0].mlp.up_proj
    decode = llava.decode

    def watching_decode(tokens: Tensor, state: object) -> object:
        prepacked_steps.append("forward" in vars(first))
        return decode(tokens, state)  # type: ignore[arg-type]

    monkeypatch.setattr(llava, "decode", watching_decode)
    prepacked = generate(llava, prompts, greedy)[0]
    monkeypatch.setattr(module, "LIMIT", 0)
    plain = generate(llava, prompts, greedy)[0]
    half = len(prepacked_steps) // 2
    assert prepacked_steps == [can_prepack(first.weight, torch.float32)] * half + [False] * half
    assert torch.equal(prepacked.tokens, plain.tokens)
