"""Which devices torch lets meet in an operator, and for which operators the host waits."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
COPIES = {aten.copy_, aten._to_copy}
WAITING = {  # the host reads a number, or the size of what they return
    aten._linalg_check_errors,
    aten._local_scalar_dense,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten.unique_consecutive,
    aten.unique_dim,
}


def check_devices(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Refuse tensors on different devices, but where torch allows them.

    Args:
        func: an operator.
        args: its arguments.
        tensors: all tensors among them.

    Raises:
        RuntimeError: as torch words it.
    """
    packet = func.overloadpacket
    if packet in COPIES:
        return
    on_host = packet in INDEXING and args[0].device.type != "cpu"
    indices = {id(index) for index in args[1]} if on_host else set()  # may be on the host
    numbers_mix = packet in INDEXING or torch.Tag.pointwise in func.tags
    met = [
        x
        for x in tensors
        if id(x) not in indices and not (numbers_mix and x.dim() == 0 and x.device.type == "cpu")
    ]
    found = sorted({str(x.device) for x in met})
    if len(found) > 1:
        shapes = ", ".join(f"{list(x.shape)} on {x.device}" for x in met)
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(found)}! ({func.name()}: {shapes})"
        )


def host_waits(func: Any, args: Any, target: torch.device) -> bool:
    """Whether the host waits for a GPU in an operator on its tensors.

    Args:
        func: the operator.
        args: its arguments.
        target: device of what it returns.
    """
    packet = func.overloadpacket
    if packet in COPIES:
        return target.type == "cpu"
    if packet in INDEXING:  # how many are true?
        masks = [x for x in args[1] if x is not None and x.dtype == torch.bool]
        return any(mask.device.type != "cpu" for mask in masks)
    return packet in WAITING


def host_sends(func: Any, args: Any, kwargs: Any, target: torch.device) -> bool:
    """Whether an operator copies memory of the host to a GPU; numbers [] go along with a kernel.

    Args:
        func: the operator.
        args: its arguments.
        kwargs: its arguments by name.
        target: device of what it returns.
    """
    if target.type == "cpu" or torch.Tag.pointwise in func.tags:
        return False
    return any(x.device.type == "cpu" for x in tensors_in((args, kwargs)))


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors among arguments of an operator."""
    found: list[Tensor] = []

    def add(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    with_tensors(value, add)
    return found


def with_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor among arguments of an operator."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)(with_tensors(item, function) for item in value)
    if isinstance(value, dict):
        return {name: with_tensors(item, function) for name, item in value.items()}
    return value


def call_site() -> str:
    """The innermost line of the package `rlhf` that is running."""
    frame = sys._getframe()
    while "/rlhf/" not in frame.f_code.co_filename:
        if frame.f_back is None:
            return "outside of rlhf"
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/rlhf/')[2]}:{frame.f_lineno}"
