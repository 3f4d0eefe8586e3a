"""The critic's head: what it predicts at first, and that a fit's weights give the fit's values."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from rlhf.functional import RidgeRegression
from rlhf.models.value_head import MAX_FIT_WIDTH, ValueHead


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_first_values_are_0_and_every_weight_but_those_below_the_last_layer(
    kind: Literal["linear", "mlp"],
) -> None:
    head, hidden, features = ValueHead(6, kind), torch.randn(5, 6), torch.randn(5, 5)
    assert head(hidden).tolist() == head(hidden, features).tolist() == [0.0] * 5
    head(hidden, features).sum().backward()
    grads = {name: value.grad for name, value in head.named_parameters()}
    torch.testing.assert_close(grads["features"], features.sum(0))
    last = grads["states.linear.weight"]
    assert last is not None and bool(last.any())


def test_a_value_is_the_heads_plus_the_features_times_their_weights() -> None:
    head = ValueHead(2)
    with torch.no_grad():
        head.states.linear.weight.copy_(torch.tensor([[2.0, -1.0]]))
        head.states.linear.bias.fill_(0.5)
        head.features.copy_(torch.tensor([1.0, 0.0, -3.0, 10.0, 2.0]))
    hidden = torch.tensor([[1.0, 3.0], [0.0, 1.0]])
    features = torch.tensor([[4.0, 9.0, 1.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.5, -1.25]])
    assert head(hidden).tolist() == [-0.5, -0.5]
    assert head.feature_values(features).tolist() == [1.0, 2.5]
    assert head(hidden, features).tolist() == [0.5, 2.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_values_are_float32_whatever_the_inputs_are(
    kind: Literal["linear", "mlp"], dtype: torch.dtype
) -> None:
    head = ValueHead(6, kind)
    for value in head.parameters():
        torch.nn.init.normal_(value)
    hidden, features = torch.randn(5, 6).to(dtype), torch.randn(5, 5).to(dtype)
    values = head(hidden, features)
    assert values.dtype == head.fit_inputs(hidden).dtype == torch.float32
    torch.testing.assert_close(values, head(hidden.float(), features.float()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [8, MAX_FIT_WIDTH, MAX_FIT_WIDTH + 88])
def test_the_weights_of_a_fit_give_its_predictions(width: int) -> None:
    head = ValueHead(width)
    hidden, features = torch.randn(90, width), torch.randn(90, 5)
    inputs = torch.cat([head.fit_inputs(hidden), features], 1)
    assert inputs.shape == (90, min(width, MAX_FIT_WIDTH) + 5)
    regression = RidgeRegression()
    regression.add(inputs, hidden[:, 0] - 2 * features[:, 2] + 5)
    weights, intercept = regression.solve()
    head.set_weights(weights, intercept)
    expected = (inputs.double() @ weights + intercept).float()
    torch.testing.assert_close(head(hidden, features), expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std()) > 0.5
    state_part = (inputs[:, :-5].double() @ weights[:-5] + intercept).float()
    torch.testing.assert_close(head(hidden), state_part, rtol=1e-4, atol=1e-4)


def test_narrow_states_are_fitted_as_they_are() -> None:
    hidden = torch.randn(5, MAX_FIT_WIDTH)
    assert torch.equal(ValueHead(MAX_FIT_WIDTH).fit_inputs(hidden), hidden)


def test_the_projection_of_wide_states_keeps_distances_and_is_always_the_same() -> None:
    """512 random directions of 2,000: distances shrink by √(512/2000), within some percent."""
    hidden = torch.randn(12, 2000)
    projected = ValueHead(2000).fit_inputs(hidden)
    torch.manual_seed(1)
    assert torch.equal(projected, ValueHead(2000).fit_inputs(hidden))
    shrunk = torch.pdist(projected) / torch.pdist(hidden) / (MAX_FIT_WIDTH / 2000) ** 0.5
    assert float((shrunk - 1).abs().max()) < 0.12


def test_a_fit_reads_no_graph_and_only_a_linear_head_takes_one() -> None:
    hidden = torch.randn(5, 6, requires_grad=True)
    assert not ValueHead(6).fit_inputs(hidden).requires_grad
    with pytest.raises(TypeError, match="got a head of kind mlp, wanted linear"):
        ValueHead(6, "mlp").set_weights(torch.zeros(10), torch.zeros(()))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_saved_head_has_the_same_values(tmp_path: Path, kind: Literal["linear", "mlp"]) -> None:
    saved, loaded = ValueHead(6, kind), ValueHead(6, kind)
    for value in saved.parameters():
        torch.nn.init.normal_(value)
    saved.save(tmp_path / "head.safetensors")
    loaded.load_state_dict(load_file(tmp_path / "head.safetensors"))
    hidden, features = torch.randn(5, 6), torch.randn(5, 5)
    assert torch.equal(loaded(hidden, features), saved(hidden, features))
