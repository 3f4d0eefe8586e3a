"""The disguised GPU itself: it refuses, counts and computes what a GPU does."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tests.support.device_tensor import DisguisedGPU, Kind
from tests.support.disguised_gpu import disguised_gpu
from tests.support.mps_operators import mps_operators

MIXED = "Expected all tensors to be on the same device"
HOST = torch.arange(1.0, 4.0)
ROWS, MASK = torch.tensor([2, 0]), torch.tensor([True, False, True])


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + HOST,
        lambda x: x @ HOST,
        lambda x: torch.cat([x, HOST]),
        lambda x: x.index_select(0, ROWS),
        lambda x: HOST[ROWS.to(x.device)],
        lambda x: HOST.masked_fill(MASK.to(x.device), 0),
        lambda x: x.add_(HOST),
        lambda x: x.__setitem__(ROWS, HOST[:2]),
        lambda x: torch.dot(x, HOST),
        lambda x: nn.Linear(3, 1)(x),
    ],
)
def test_tensors_of_host_and_device_do_not_mix(kind: Kind, mix: Callable[[Tensor], Any]) -> None:
    with disguised_gpu(kind), pytest.raises(RuntimeError, match=MIXED):
        mix(HOST.to(kind))


@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        (lambda x: x + torch.tensor(1.0), [2, 3, 4]),
        (lambda x: x[ROWS], [3, 1]),
        (lambda x: x[MASK], [1, 3]),
        (lambda x: x.index_put((ROWS,), torch.tensor(7.0)), [7, 2, 7]),
        (lambda x: torch.empty(3, device=x.device).copy_(HOST), [1, 2, 3]),
        (lambda x: x.masked_fill(MASK.to(x.device), 0), [0, 2, 0]),
    ],
)
def test_what_torch_lets_mix_is_computed(
    combine: Callable[[Tensor], Tensor], expected: list[float]
) -> None:
    with disguised_gpu():
        combined = combine(HOST.to("cuda"))
        assert combined.is_cuda and combined.tolist() == expected


@pytest.mark.parametrize(
    ("read", "count"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: bool((x > 2).any()), 1),
        (lambda x: HOST.clone().copy_(x), 1),
        (lambda x: x[x > 1], 1),
        (lambda x: (x > 1).nonzero(), 1),
        (lambda x: x[MASK], 0),
        (lambda x: (x * 2).softmax(0).exp_(), 0),
        (lambda x: x.to("cuda") + torch.ones(3, device="cuda"), 0),
    ],
)
def test_the_host_waits_where_it_reads(read: Callable[[Tensor], Any], count: int) -> None:
    with disguised_gpu() as gpu:
        read(HOST.to("cuda"))
    assert sum(gpu.host_reads.values()) == count


@pytest.mark.parametrize(
    "double",
    [
        lambda gpu: HOST.to(gpu.device).double(),
        lambda gpu: HOST.double().to(gpu.device),
        lambda gpu: torch.zeros(3, dtype=torch.float64, device=gpu.device),
        lambda gpu: HOST.to(gpu.device).cumsum(0, dtype=torch.float64),
    ],
)
def test_float64_is_counted_and_refused_on_mps(double: Callable[[DisguisedGPU], Tensor]) -> None:
    with disguised_gpu("cuda") as gpu:
        double(gpu)
    assert sum(gpu.float64.values()) == 1
    with disguised_gpu("mps") as gpu, pytest.raises(TypeError, match="doesn't support float64"):
        double(gpu)


def test_an_operator_without_a_kernel_is_refused_on_mps() -> None:
    def sums(device: str) -> list[float]:
        lengths = torch.tensor([1, 2], device=device)
        return torch.segment_reduce(HOST.to(device), "sum", lengths=lengths).tolist()

    with disguised_gpu("cuda"):
        assert sums("cuda") == [1, 5]
    with disguised_gpu("mps"), pytest.raises(NotImplementedError, match="aten::segment_reduce'"):
        sums("mps")


def test_mps_has_what_it_has() -> None:
    """Kernels, structured and composite operators are told apart from those of others."""
    has = {name for name in ("mm", "add_.Tensor", "linalg_eigh", "_fused_adamw_") if on_mps(name)}
    assert has == {"mm", "add_.Tensor", "linalg_eigh", "_fused_adamw_"}
    assert not any(map(on_mps, ("segment_reduce", "_linalg_eigh", "_linalg_svd", "_ctc_loss")))


def on_mps(name: str) -> bool:
    return f"aten::{name}" in mps_operators()


def network() -> nn.Sequential:
    """Two layers that share their weight."""
    torch.manual_seed(0)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    return tied


def step(model: nn.Sequential, device: str) -> Tensor:
    """The weight after a step of Adam with an attention between the layers, on the CPU."""
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    heads = model[0](torch.arange(24.0, device=device).view(1, 1, 6, 4))
    mixed = scaled_dot_product_attention(heads, heads, heads, is_causal=True)
    model[1](mixed).square().sum().backward()
    optimizer.step()
    return model[0].get_parameter("weight").detach().cpu()


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_step_of_training_is_that_of_the_cpu(kind: Kind) -> None:
    expected = step(network(), "cpu")
    with disguised_gpu(kind) as gpu:
        model = network()
        actual = step(model, kind)
        assert model[1].weight is model[0].weight and isinstance(model[0].weight, nn.Parameter)
        assert model[0].weight.device == gpu.device
        assert model[0].weight.grad is not None and model[0].weight.grad.device == gpu.device
        copied = deepcopy(model)
        assert copied[1].weight is copied[0].weight is not model[0].weight
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
    assert gpu.operators["aten::_fused_adamw_"] == 1


def test_the_meta_device_stays_itself() -> None:
    with disguised_gpu(), torch.device("meta"):
        assert torch.zeros(2).is_meta and nn.Linear(2, 2).weight.is_meta


def test_nothing_is_left_behind() -> None:
    with disguised_gpu():
        pass
    assert not torch.__future__.get_swap_module_params_on_conversion()
    assert not torch._C._only_lift_cpu_tensors()
    assert isinstance(torch.Event, type)
