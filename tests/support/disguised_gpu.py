"""A GPU in disguise: tensors that report cuda:0 or mps:0 and keep their numbers on the CPU.

Where host and device tensors meet, it raises what torch raises on a real GPU. It keeps a record of
the operators that run on it, of the places where the host waits for its numbers, and of float64
tensors. What it cannot show: speed, memory, autocast, and the rounding of real kernels.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from tests.support.device_rules import tensors_in, with_tensors
from tests.support.device_tensor import DeviceTensor, DisguisedGPU, Kind, on_host


class NamedDevices(TorchFunctionMode):
    """Notes which device a call of torch from Python names, before torch asks for its driver.

    Args:
        gpu: where the calls run.
    """

    def __init__(self, gpu: DisguisedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to:
            args = tuple(map(self._numbered, args))
        device = kwargs.get("device")
        if device is not None:
            device = kwargs["device"] = self._numbered(device)
        if device is None and func in _device_constructors():
            device = torch.get_default_device()
        self.gpu.means_meta = device is not None and torch.device(device).type == "meta"
        try:
            return func(*args, **kwargs)
        finally:
            self.gpu.means_meta = False

    def _numbered(self, value: Any) -> Any:
        """The device, where `value` names its kind without a number."""
        is_kind = isinstance(value, (str, torch.device)) and str(value) == self.gpu.device.type
        return self.gpu.device if is_kind else value


@contextmanager
def disguised_gpu(kind: Kind = "cuda", *, triton: bool = False) -> Iterator[DisguisedGPU]:
    """Inside the block tensors on the device `kind` are those of a disguised GPU, which it yields.

    Args:
        kind: `cuda` or `mps`.
        triton: run the Triton kernels, by Triton's interpreter; else those in PyTorch.
    """
    gpu, settings = DisguisedGPU(kind), torch.__future__
    with ExitStack() as stack:
        # torch.tensor(…, device=…) must not ask for a driver.
        stack.enter_context(mock.patch.object(torch.cuda, "_lazy_init", lambda: None))
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        # A parameter that moves to the device must remain the same object, with all its users.
        swaps = settings.get_swap_module_params_on_conversion()
        stack.callback(settings.set_swap_module_params_on_conversion, swaps)
        settings.set_swap_module_params_on_conversion(True)
        stack.enter_context(mock.patch.object(torch, "Event", mock.MagicMock()))
        # An old GPU, on which transformers does not ask for grouped products of experts.
        capability = mock.patch.object(torch.cuda, "get_device_capability", lambda device: (7, 0))
        stack.enter_context(capability)
        stack.enter_context(interpreted_triton(gpu) if triton else no_triton())
        stack.enter_context(NamedDevices(gpu))
        stack.enter_context(gpu)
        yield gpu


def no_triton() -> AbstractContextManager[Any]:
    """Inside the block the kernels in PyTorch run on the GPU."""
    return mock.patch("rlhf.kernels._wants_triton", lambda tensor: False)


@contextmanager
def interpreted_triton(gpu: DisguisedGPU) -> Iterator[None]:
    """Inside the block Triton's interpreter, which must be on, takes tensors of the GPU only."""
    grid: Any = import_module("triton.runtime.interpreter").GridExecutor
    launch: Callable[..., Any] = grid.__call__

    def launch_on_gpu(self: Any, *args: Any, **kwargs: Any) -> Any:
        for tensor in tensors_in((args, kwargs)):
            if not isinstance(tensor, DeviceTensor):
                raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
        gpu.operators[self.fn.__name__] += 1
        return launch(self, *with_tensors(args, on_host), **with_tensors(kwargs, on_host))

    device_of = mock.patch.object(torch.cuda, "device_of", lambda tensor: nullcontext())
    with device_of, mock.patch.object(grid, "__call__", launch_on_gpu):
        yield
