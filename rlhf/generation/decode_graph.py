"""Decode steps as a CUDA graph: one launch replays all kernels of a step, without Python."""

from dataclasses import replace

import torch
from torch import Tensor

from rlhf.config.schema import SamplingConfig
from rlhf.errors import UsageError, is_out_of_memory
from rlhf.models.llava import Llava
from rlhf.models.packed.kv_cache import DecodeState
from rlhf.models.packed.supported import position_limit
from rlhf.models.quantization import model_quantization

WARM_UPS = 3  # steps before a capture, on a side stream
# Replays that take about as long as warm-ups and capture: four steps from Python, each of which may
# take as long as five replays. An estimate, not measured.
CAPTURE_COST = 20
FIX = "leave sampling.cuda_graphs out"


class DecodeGraph:
    """Reads one more token of every sequence by replaying a CUDA graph.

    All shapes of a step are constant: keys and values are written to a column that is a tensor, and
    attention runs over all columns, the later ones masked. The graph is captured at the first token
    and again after `select`; it reads the token ids from a buffer, and writes to the memory that
    its steps return. Its warm-ups write what the first replay writes again.

    Weights must not change while it is used. Under autocast it must be used inside of the block in
    which the prompts were read: then the casts of weights are cached before the capture, and the
    graph reads them where they lie.

    Args:
        llava: the model; its active adapter is used.
        state: KV caches and positions of the sequences so far; it is used up.
    """

    def __init__(self, llava: Llava, state: DecodeState) -> None:
        self._llava, self._first_rows = llava, len(state.positions)
        state.suffix.fix_shapes()
        # positions of the suffixes' first columns
        self._state = replace(state, positions=state.positions - self._column(state))
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Hidden states [B, D] of the next tokens [B] int64, valid until the next call."""
        if self._graph is None:
            self._tokens = tokens.clone()
            self._graph = self._capture()
        self._tokens.copy_(tokens)
        self._graph.replay()
        self._column(self._state).add_(1)
        return self._hidden

    def selection_pays(self, finished: int, steps: int) -> bool:
        """Whether a capture without the finished rows takes less time than they do.

        A replay spends at most their share of the first batch on them.

        Args:
            finished: rows that have ended.
            steps: most steps that are left.
        """
        return finished * steps >= CAPTURE_COST * self._first_rows

    def select(self, rows: Tensor) -> None:
        """Keep the sequences `rows` [K] only; the graph of the others is freed first."""
        self.close()
        self._state = self._state.select(rows)

    def close(self) -> None:
        """Free the graph with its memory."""
        if self._graph is not None:
            self._graph.reset()
            del self._hidden, self._tokens
        self._graph = None

    def _step(self) -> Tensor:
        positions = self._state.positions + self._column(self._state)
        return self._llava.decode(self._tokens, replace(self._state, positions=positions))[0]

    def _column(self, state: DecodeState) -> Tensor:
        assert state.suffix.column is not None
        return state.suffix.column

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Capture a step, after warm-ups that allocate what libraries keep.

        Raises:
            UsageError: the model does what a graph cannot, such as asking the GPU for a number.
        """
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        try:
            # Other threads may use the device meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._hidden = self._step()
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a capture that failed raises, too
            if is_out_of_memory(cause):
                raise cause from None
            what = "a decode step of this model cannot be captured as a CUDA graph"
            where = f"sampling.cuda_graphs=true {self._llava.base}: {str(cause).splitlines()[0]}"
            raise UsageError(what, where, FIX) from error
        return graph


def check_graph_device(sampling: SamplingConfig, device: torch.device) -> None:
    """Refuse CUDA graphs on a device that has none.

    Args:
        sampling: its `cuda_graphs` may ask for them.
        device: device of the model.

    Raises:
        UsageError: it asks for them, and the device is not CUDA.
    """
    if sampling.cuda_graphs and device.type != "cuda":
        where = f"sampling.cuda_graphs=true device={device.type}"
        raise UsageError("only CUDA devices have graphs", where, FIX)


def check_cuda_graphs(sampling: SamplingConfig, llava: Llava) -> None:
    """Refuse CUDA graphs of a model whose decode step cannot be captured.

    Args:
        sampling: its `cuda_graphs` may ask for them.
        llava: the model that decodes.

    Raises:
        UsageError: it asks for them, and the device is not CUDA, layers are int8, weights are not
            on the device, or RoPE is dynamic.
    """
    check_graph_device(sampling, llava.device)
    if not sampling.cuda_graphs:
        return
    obstacle = ""
    if model_quantization(llava.model) == "int8":
        obstacle = "int8 layers of bitsandbytes"
    elif any(x.device != llava.device for x in llava.language_model.parameters()):
        obstacle = "weights that are not all on the GPU"
    elif position_limit(llava.model.config.text_config) is not None:
        obstacle = "dynamic RoPE, which asks how long the sequences are,"
    if obstacle:
        what = f"{obstacle} cannot be captured as a CUDA graph"
        raise UsageError(what, f"sampling.cuda_graphs=true {llava.base}", FIX)
