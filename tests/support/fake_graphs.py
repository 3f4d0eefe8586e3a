"""CUDA graphs without CUDA: operators are recorded with their tensors; a replay runs them again.

As on a GPU, a capture computes nothing: what it wrote to is put back, and what it returned is NaN
until a replay. A replay runs no Python of the model; numbers that Python had are as they were. On a
disguised GPU a capture may neither copy between host and device nor wait.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.device_rules import tensors_in
from tests.support.device_tensor import DisguisedGPU


class FakeGraph(TorchDispatchMode):
    """A graph that is captured while it is active as a mode.

    Attributes:
        calls: operator, arguments, and what it returned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self._written: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for value, argument in zip(args, func._schema.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._written.append((value, value.clone()))
        output = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, output))
        return output

    def undo(self) -> None:
        """Put back what the capture wrote to, and make what it returned NaN."""
        for tensor, before in reversed(self._written):
            tensor.copy_(before)
        self._written.clear()
        for _, args, kwargs, output in self.calls:
            for tensor in new_tensors((args, kwargs), output):
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)

    def replay(self) -> None:
        """Run the operators again on the same memory."""
        assert self.calls, "this graph is not captured, or is freed"
        for func, args, kwargs, output in self.calls:
            again = func(*args, **kwargs)
            fresh = {id(tensor) for tensor in new_tensors((args, kwargs), output)}
            for old, new in zip(tensors_in(output), tensors_in(again), strict=True):
                if id(old) in fresh:
                    old.copy_(new)

    def reset(self) -> None:
        """Free what was captured."""
        self.calls.clear()


def new_tensors(arguments: Any, output: Any) -> list[Tensor]:
    """Return the tensors that an operator returned in memory of their own."""
    known = {x.untyped_storage().data_ptr() for x in tensors_in(arguments)}
    return [x for x in tensors_in(output) if x.untyped_storage().data_ptr() not in known]


class FakeCUDA:
    """What was done with graphs and streams.

    Args:
        gpu: a disguised GPU on which it happens, if any.

    Attributes:
        graphs: that were made.
        replays: of all of them.
        events: waits, streams and captures, in order.
    """

    def __init__(self, gpu: DisguisedGPU | None) -> None:
        self.gpu, self.replays, self.graphs = gpu, 0, list[FakeGraph]()
        self.events: list[str] = []

    @property
    def freed(self) -> bool:
        """Whether no graph holds memory."""
        return not any(graph.calls for graph in self.graphs)

    def make(self) -> FakeGraph:
        """Return a new graph."""
        graph = FakeGraph()
        replay = graph.replay

        def counted() -> None:
            self.replays += 1
            replay()

        graph.replay = counted  # type: ignore[method-assign]
        self.graphs.append(graph)
        return graph

    @contextmanager
    def capture(self, graph: FakeGraph, **options: Any) -> Iterator[None]:
        """Inside the block operators are recorded."""
        self.events.append("capture")
        if self.gpu is not None:
            self.gpu.is_capturing = True
        try:
            with graph:
                yield
        except Exception:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904
        finally:
            if self.gpu is not None:
                self.gpu.is_capturing = False
        graph.undo()

    def stream(self, name: str) -> Any:
        """Return a stream that notes which one it waits for."""
        stream = mock.Mock()
        stream.name = name
        stream.wait_stream = lambda other: self.events.append(f"{name} waits for {other.name}")
        return stream

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """Inside the block a stream is the current one."""
        self.events.append(f"on {stream.name}")
        yield
        self.events.append(f"off {stream.name}")


@contextmanager
def fake_graphs(gpu: DisguisedGPU | None = None) -> Iterator[FakeCUDA]:
    """Inside the block graphs and streams of torch.cuda are fake ones.

    Args:
        gpu: a disguised GPU; None: tensors are on the CPU.
    """
    fake = FakeCUDA(gpu)
    main = fake.stream("main")
    with (
        mock.patch.object(torch.cuda, "CUDAGraph", fake.make),
        mock.patch.object(torch.cuda, "graph", fake.capture),
        mock.patch.object(torch.cuda, "Stream", lambda: fake.stream("side")),
        mock.patch.object(torch.cuda, "current_stream", lambda: main),
        mock.patch.object(torch.cuda, "stream", fake.on),
    ):
        yield fake
