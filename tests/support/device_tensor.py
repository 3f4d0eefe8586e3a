"""Tensors of a GPU in disguise, and what runs on them; see `disguised_gpu`."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from tests.support.device_rules import (
    call_site,
    check_devices,
    host_sends,
    host_waits,
    tensors_in,
    with_tensors,
)
from tests.support.mps_operators import check_on_mps

Kind = Literal["cuda", "mps"]
ONLY_ON_GPU: dict[Any, Callable[..., Tensor]] = {  # a CPU lacks these combinations of dtypes
    torch.ops.aten.mm.dtype: lambda left, right, dtype: left.to(dtype) @ right.to(dtype),
    torch.ops.aten.bmm.dtype: lambda left, right, dtype: left.to(dtype) @ right.to(dtype),
    torch.ops.aten.histc.default: lambda x, *bins: torch.histc(x.float(), *bins).to(x.dtype),
}


class DeviceTensor(Tensor):
    """A tensor on a disguised GPU.

    To torch's own C++, which has no driver for the device, it is on `meta`.

    Attributes:
        host: its numbers, on the CPU.
        gpu: the GPU that it is on.
    """

    host: Tensor
    gpu: "DisguisedGPU"

    @staticmethod
    def __new__(cls, host: Tensor, gpu: "DisguisedGPU") -> "DeviceTensor":
        tensor: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device("meta"),
        )
        tensor.host, tensor.gpu = host, gpu
        return tensor

    device = property(lambda self: self.gpu.device)  # type: ignore[assignment]
    is_cuda = property(lambda self: self.device.type == "cuda")  # type: ignore[assignment]
    is_mps = property(lambda self: self.device.type == "mps")  # type: ignore[assignment]
    is_meta = False

    def get_device(self) -> int:
        return 0

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.host.untyped_storage()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.host!r} on {self.device}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = DeviceTensor(self.host.detach().clone(), self.gpu)
        if isinstance(self, nn.Parameter):
            copied = nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        gpu = next(x.gpu for x in tensors_in((args, kwargs)) if isinstance(x, DeviceTensor))
        return gpu.run(func, args, kwargs or {})


class DisguisedGPU(TorchDispatchMode):
    """Runs operators on tensors of a disguised GPU, and records them.

    Args:
        kind: of its device, `cuda` or `mps`; on `mps` operators and float64 are missing.

    Attributes:
        device: cuda:0 or mps:0.
        operators: calls of each operator or Triton kernel with a tensor of the device.
        host_reads: operator, and line of the package, where the host waited for the device.
        float64: float64 tensors on the device that each operator returned.
        is_capturing: a CUDA graph is captured: no numbers may pass between host and device.
    """

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.device = torch.device(kind, 0)
        self.operators: Counter[str] = Counter()
        self.host_reads: Counter[tuple[str, str]] = Counter()
        self.float64: Counter[str] = Counter()
        self.is_capturing = False
        self.means_meta = False  # torch's C++ calls our device `meta`, too

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operator on the numbers of its tensors.

        Raises:
            RuntimeError: tensors of host and device meet; in a capture, also where they are copied.
            NotImplementedError: MPS does not have the operator.
            TypeError: a float64 tensor would be on mps.
        """
        tensors = tensors_in((args, kwargs))
        uses_device = any(isinstance(x, DeviceTensor) for x in tensors)
        if not uses_device and kwargs.get("device") is None:
            return func(*args, **kwargs)
        target = self._target(func, args, kwargs, tensors)
        waits = uses_device and host_waits(func, args, target)
        if self.is_capturing and (waits or host_sends(func, args, kwargs, target)):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func.name()}")
        if uses_device:
            check_devices(func, args, tensors)
            if self.device.type == "mps":
                check_on_mps(func.name())
            self.operators[func.name()] += 1
            if waits:
                self.host_reads[func.name(), call_site()] += 1
        if kwargs.get("device") is not None and target == self.device:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        compute = ONLY_ON_GPU.get(func, func)
        output = compute(*with_tensors(args, on_host), **with_tensors(kwargs, on_host))
        if target != self.device:
            return output
        output = with_tensors(output, lambda x: self._put(x, func))
        return return_and_correct_aliasing(func, args, kwargs, output)

    def _target(
        self, func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]
    ) -> torch.device:
        """Device of what an operator returns."""
        if kwargs.get("device") is not None:
            named = torch.device(kwargs["device"])
            means_meta = self.means_meta or any(x.is_meta for x in tensors)
            kinds = {self.device.type} if means_meta else {self.device.type, "meta"}
            return self.device if named.type in kinds else named
        read = args[:1] if func is torch.ops.aten.copy_.default else tensors
        return next((x.device for x in read if isinstance(x, DeviceTensor)), torch.device("cpu"))

    def _put(self, host: Tensor, func: Any) -> DeviceTensor:
        """Put what an operator returned on the device."""
        if host.dtype == torch.float64:
            self.float64[func.name()] += 1
            if self.device.type == "mps":
                raise TypeError(
                    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't "
                    f"support float64. Please use float32 instead. ({func.name()})"
                )
        return DeviceTensor(host, self)


def on_host(tensor: Tensor) -> Tensor:
    """Return the numbers of a device tensor; others as they are."""
    return tensor.host if isinstance(tensor, DeviceTensor) else tensor
