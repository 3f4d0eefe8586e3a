"""The peak memory of what runs inside a block, counted by tensor."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storages(value: Any) -> list[Any]:
    tensors = (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
    return [tensor.untyped_storage() for tensor in tensors]


class LiveBytes(TorchDispatchMode):
    """Records the peak bytes of the tensors created inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        inputs = {storage._cdata for storage in storages((args, kwargs))}
        for storage in storages(result):
            if storage._cdata not in self.alive | inputs:
                self.alive.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.drop, storage._cdata, storage.nbytes())
        return result

    def drop(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size
