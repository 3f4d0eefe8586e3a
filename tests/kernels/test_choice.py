"""Which kernels `rlhf.kernels` takes: PyTorch for the CPU, Triton for a GPU."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch

import rlhf.kernels
from rlhf.spans import Spans

SPANS = Spans.from_lengths([2, 1, 3])
FLAT, IDS = torch.arange(6.0), torch.zeros(6, dtype=torch.int64)
CALLS: dict[str, tuple[str, list[Any]]] = {
    "gather_spans": ("span_ops_triton", [torch.zeros(3, 4), torch.zeros(3).long(), SPANS]),
    "scatter_spans": ("span_ops_triton", [FLAT, SPANS]),
    "span_sum": ("span_ops_triton", [FLAT, SPANS]),
    "span_mean": ("span_ops_triton", [FLAT, SPANS]),
    "span_discounted_sum": ("span_ops_triton", [FLAT, SPANS, 0.5]),
    "token_logprobs": ("token_logprobs_triton", [torch.ones(6, 2), torch.ones(5, 2), IDS]),
}


class OnGPU(torch.Tensor):
    """A tensor that says it lies on a GPU."""

    is_cuda = True

    def get_device(self) -> int:
        return -1


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """Whether a call of this kernel ends in Triton's."""
    pytest.importorskip("triton")

    def ends_in_triton(name: str, *arguments: Any, **named: Any) -> bool:
        module = import_module(f"rlhf.kernels.{CALLS[name][0]}")
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *args, **kwargs: (args, kwargs))
            return getattr(rlhf.kernels, name)(*arguments, **named) == (arguments, named)

    return ends_in_triton


@pytest.mark.parametrize("name", CALLS)
def test_by_the_device_of_the_first_tensor(chosen: Callable[..., bool], name: str) -> None:
    first, *others = CALLS[name][1]
    assert not chosen(name, first, *others)
    assert chosen(name, first.as_subclass(OnGPU), *others)
    assert not chosen(name, first.double().as_subclass(OnGPU), *others)


def test_arguments_by_name_choose_too(chosen: Callable[..., bool]) -> None:
    assert chosen("span_sum", spans=SPANS, flat=FLAT.as_subclass(OnGPU))
    assert not chosen("span_sum", spans=SPANS, flat=FLAT)


def test_pytorch_where_triton_is_missing(
    chosen: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert not chosen("span_sum", FLAT.as_subclass(OnGPU), SPANS)


@pytest.mark.parametrize("name", CALLS)
def test_both_have_one_signature(name: str) -> None:
    pytest.importorskip("triton")
    counterpart = getattr(import_module(f"rlhf.kernels.{CALLS[name][0]}"), name)
    public = getattr(rlhf.kernels, name)
    assert inspect.signature(public) == inspect.signature(counterpart)
    assert public.__doc__


def test_nothing_needs_triton_on_a_cpu() -> None:
    program = """
import sys
sys.modules["triton"] = None
import torch, rlhf.kernels
from rlhf.spans import Spans
spans, flat = Spans.from_lengths([2, 1]), torch.ones(3)
assert rlhf.kernels.span_discounted_sum(flat, spans, 1.0).tolist() == [2, 1, 1]
rlhf.kernels.token_logprobs(torch.ones(2, 3), torch.ones(4, 3), torch.tensor([0, 1]))
assert not [name for name in sys.modules if name.startswith("rlhf.kernels.triton")]
"""
    subprocess.run([sys.executable, "-c", program], check=True)
