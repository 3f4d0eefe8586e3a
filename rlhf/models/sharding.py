"""Language models whose layers are sharded over the processes of a run, by FSDP2.

Beside `rlhf.parallel` the only module that knows torch.distributed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rlhf.errors import UsageError, told_once
from rlhf.models.llava import Llava
from rlhf.models.quantization import model_quantization
from rlhf.models.scalar_head import MLPHead, ScalarHead
from rlhf.parallel.world import ALONE, World

AnyTensor = TypeVar("AnyTensor", bound=Tensor)
# Its name until torch 2.12 is the second one.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class ShardedModels:
    """Language models of which each process holds a shard of every decoder layer.

    A forward or backward pass gathers one layer at a time, so that all processes must run the same
    number of them; inside `whole` all layers are gathered, and a process runs what it likes.
    Adapters, embeddings, projector and vision tower are not sharded. Alone, or without models,
    nothing is.

    Args:
        llavas: their language models are sharded, in place; those on one model count once.
        heads: trained with a language model in full; sharded too.
        world: the processes.

    Raises:
        UsageError: a language model has int8 weights, or trains an adapter of type `alora`.
    """

    def __init__(
        self,
        llavas: Sequence[Llava] = (),
        heads: Sequence[ScalarHead | MLPHead] = (),
        world: World = ALONE,
    ) -> None:
        self.world, self._is_whole = world, False
        for llava in llavas:
            check_shardable(llava)
        distinct = {id(llava.model): llava for llava in llavas}.values() if world.size > 1 else ()
        self._reduce_scatter = _ReduceScatter()
        self._units: list[FSDPModule] = []  # each gathered by one collective
        self._roots: list[nn.Module] = []  # each saved by one state dict
        for llava in distinct:
            mesh = init_device_mesh(llava.device.type, (world.size,))
            language_model = llava.language_model
            self._shard([*language_model.layers, language_model], mesh, _replicated(llava))
            self._roots.append(llava.model)
        for head in heads if self._units else ():
            layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
            self._shard(layers, mesh, set())
            self._roots.append(head)

    @property
    def active(self) -> bool:
        """Whether anything is sharded."""
        return bool(self._units)

    @contextmanager
    def whole(self, needed: bool = True) -> Iterator[None]:
        """Inside the block every process holds all layers, and passes exchange nothing.

        All processes enter together. Weights may not change inside.

        Args:
            needed: False: the block is left as it is.

        Raises:
            ResourceError: another process ended, or did not answer in time.
        """
        if not needed or self._is_whole or not self.active:
            yield
            return
        with self.world.collectives():
            for unit in self._units:
                unit.set_reshard_after_forward(False, recurse=False)
                unit.unshard()
        self._is_whole = True
        try:
            yield
        finally:
            self._is_whole = False
            for unit in self._units:
                unit.set_reshard_after_forward(True, recurse=False)
                unit.reshard()

    @contextmanager
    def weightless(self) -> Iterator[None]:
        """Inside the block the passes of this process add nothing to gradients that are sharded.

        It takes part in the passes of the others.
        """
        self._reduce_scatter.weightless = True
        try:
            yield
        finally:
            self._reduce_scatter.weightless = False

    def missing_passes(self, passes: int) -> int:
        """Return how many passes this process has fewer than the one with most; 0 if not active.

        Args:
            passes: of this process.
        """
        return int(self.world.most(passes)) - passes if self.active else 0

    def gather(self, tensor: Tensor) -> Tensor | None:
        """Return a whole tensor on process 0, and None on the others; all call it together."""
        if isinstance(tensor, DTensor):
            with self.world.collectives():
                tensor = tensor.full_tensor()
        return tensor if self.world.is_first else None

    def gather_all(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors by name on process 0, those that were sharded on the CPU."""
        gathered = {}
        for name, tensor in named.items():
            whole = self.gather(tensor.detach())
            if whole is not None:
                gathered[name] = whole.cpu() if is_sharded(tensor) else whole
        return gathered

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Inside the block the state dicts on process 0 hold whole tensors; all enter together."""
        with ExitStack() as stack:
            for root in self._roots:
                sharded = {k: x for k, x in root.state_dict().items() if is_sharded(x)}
                replace = partial(_replace_entries, self.gather_all(sharded))
                stack.callback(root.register_state_dict_post_hook(replace).remove)
            yield

    def _shard(self, modules: Sequence[Any], mesh: DeviceMesh, ignored: set[Any]) -> None:
        """Shard modules, the inner ones first."""
        for module in modules:
            fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
            module.set_gradient_divide_factor(1.0)  # losses are divided by global counts already
            module.set_force_sum_reduction_for_comms(True)
            module.set_custom_reduce_scatter(self._reduce_scatter)
            self._units.append(module)


def check_shardable(llava: Llava) -> None:
    """Refuse a model that cannot be sharded.

    Raises:
        UsageError: it has int8 weights, or trains an adapter of type `alora`, whose passes
            depend on what its process has cached.
    """
    where = f"parallel.shard=true {llava.base}"
    if model_quantization(llava.model) == "int8":
        fix = "use model.quantization=nf4 or none, or parallel.shard=false"
        raise told_once(UsageError("int8 weights cannot be sharded", where, fix))
    if "alora" in llava.adapters.trained_types:
        fix = "use model.lora_type=lora, or parallel.shard=false"
        what = "a model that trains an adapter of type alora cannot be sharded"
        raise told_once(UsageError(what, where, fix))


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds only its shard of a tensor."""
    return isinstance(tensor, DTensor)


def split_by_sharding(tensors: Iterable[AnyTensor]) -> tuple[list[AnyTensor], list[AnyTensor]]:
    """Split tensors into whole and sharded ones, which torch does not take in one call."""
    whole: list[AnyTensor] = []
    sharded: list[AnyTensor] = []
    for tensor in tensors:
        (sharded if is_sharded(tensor) else whole).append(tensor)
    return whole, sharded


def shard_like(tensor: Tensor, value: Tensor) -> Tensor:
    """Return a value as `tensor` is held: the shard of this process, if that is sharded.

    Args:
        tensor: of any shape.
        value: whole, of the same shape, any device.
    """
    if not isinstance(tensor, DTensor):
        return value
    value = value.to(tensor.device, tensor.dtype)
    return distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)


class _ReduceScatter:
    """The sum of gradients over the processes, of which each gets its shard.

    Attributes:
        weightless: the gradients of this process count as 0.
    """

    weightless = False

    def allocate(
        self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> dist.Work | None:
        if self.weightless:
            input_tensor.zero_()
        work: dist.Work | None = _reduce_scatter(output_tensor, input_tensor, op, group, async_op)
        return work


def _replicated(llava: Llava) -> set[nn.Parameter]:
    """Return the parameters of a language model that every process holds whole."""
    adapters = llava.adapters
    factors = {value for name in adapters.names for value in adapters.tensors(name).values()}
    return factors | set(llava.model.get_input_embeddings().parameters())


def _replace_entries(
    entries: Mapping[str, Tensor], _: nn.Module, state: dict[str, Any], prefix: str, __: Any
) -> None:
    """Replace entries of a state dict, a hook of torch.nn.Module."""
    state.update({f"{prefix}{name}": value for name, value in entries.items()})
