"""Triton kernels run compiled on a GPU, and where there is none interpreted on the CPU."""

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

import tests.support.interpreted_triton  # noqa: F401


@pytest.fixture
def device() -> Iterator[str]:
    """Where Triton runs; tensors are made there by default."""
    pytest.importorskip("triton")
    name = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(name):
        yield name


@pytest.fixture(params=["span_ops", "span_ops_triton"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Each module that holds the span kernels; the blocks of Triton's are small, hence several."""
    if request.param == "span_ops_triton":
        request.getfixturevalue("device")
        monkeypatch.setattr("rlhf.kernels.span_ops_triton.BLOCK", 16)
    return importlib.import_module(f"rlhf.kernels.{request.param}")
