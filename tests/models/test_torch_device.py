"""A run and its plan are of the same device, whatever is here."""

from types import SimpleNamespace

import pytest
import torch

from rlhf.config.schema import GIB
from rlhf.errors import UsageError
from rlhf.models.torch_device import find_torch_device
from rlhf.planning.devices import local_device

HERE = [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool) -> None:
    """A machine with or without a GPU of 10 GiB, and a Mac's of 5."""
    gpu = SimpleNamespace(name="NVIDIA T4", total_memory=10 * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 5 * GIB)


@pytest.mark.parametrize(("cuda", "mps", "fastest"), HERE)
def test_auto_is_the_fastest_that_is_here(machine: None, fastest: str) -> None:
    assert find_torch_device("auto").type == local_device().kind == fastest
    assert local_device().gib == {"cuda": 10, "mps": 5}.get(fastest, local_device("cpu").gib)


@pytest.mark.parametrize(("cuda", "mps", "fastest"), HERE)
@pytest.mark.parametrize("name", ["cuda", "mps", "cpu"])
def test_a_named_device_is_taken_or_refused_by_both(
    machine: None, cuda: bool, mps: bool, fastest: str, name: str
) -> None:
    if {"cuda": cuda, "mps": mps, "cpu": True}[name]:
        assert find_torch_device(name).type == local_device(name).kind == name
        return
    for find in (find_torch_device, local_device):
        with pytest.raises(UsageError, match=f"there is no {name} device") as error:
            find(name)
        assert error.value.fix.startswith(f"set device={fastest},")
