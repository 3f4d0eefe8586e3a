"""Steps of constant shapes compute what other steps compute, and a graph of them is replayed."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.config.schema import EngineKind, SamplingConfig
from rlhf.errors import UsageError
from rlhf.generation import decode_graph
from rlhf.generation.decode_graph import WARM_UPS, DecodeGraph, check_cuda_graphs
from rlhf.generation.decode_loop import EagerDecoder
from rlhf.generation.engines import ENGINES
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.types import PromptBatch
from tests.models.test_alora import adapted
from tests.support import tiny_models
from tests.support.fake_graphs import FakeGraph, fake_graphs

STEPS = 6
GRAPHS = SamplingConfig(max_new_tokens=4, cuda_graphs=True)


def grouped(llava: Llava, tiny: Path, samples: int) -> PromptBatch:
    """Four prompts of different lengths, each `samples` times."""
    rows = torch.arange(4).repeat_interleave(samples)
    return tiny_models.prompts_of(llava, tiny).select(rows)


def hidden_states(
    decoder: type[EagerDecoder | DecodeGraph], llava: Llava, prompts: PromptBatch, kept: list[int]
) -> list[Tensor]:
    """Hidden states of some fixed tokens; after the second one only the rows `kept` go on."""
    tokens = torch.randint(300, (STEPS, len(prompts)), generator=torch.Generator().manual_seed(1))
    _, state = llava.prefill(prompts, STEPS)
    decode, rows = decoder(llava, state), torch.arange(len(prompts))
    steps = []
    for step in range(STEPS):
        if step == 2:
            rows = torch.tensor(kept)
            decode.select(rows)
        steps.append(decode(tokens[step, rows]).clone())
    decode.close()
    return steps


@torch.no_grad()
@pytest.mark.parametrize("lora_type", ["lora", "alora"])
@pytest.mark.parametrize(
    ("samples", "kept"),
    [(1, [0, 1, 2, 3]), (1, [3, 1]), (4, [*range(16)]), (4, [0, 1, 2, 3, 9, 4, 15]), (4, [8, 9])],
)
def test_states_are_those_of_the_eager_step(
    tiny: Path, lora_type: str, samples: int, kept: list[int]
) -> None:
    """Prefixes are of different lengths; of the groups some rows leave, also in disorder."""
    llava = adapted(tiny, lora_type)
    prompts = grouped(llava, tiny, samples)
    assert not prompts.spans.equal_lengths
    expected = hidden_states(EagerDecoder, llava, prompts, kept)
    with fake_graphs() as fake:
        actual = hidden_states(DecodeGraph, llava, prompts, kept)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert len(fake.graphs) == 2 and fake.replays == STEPS and fake.freed


@torch.no_grad()
def test_a_capture_follows_warm_ups_on_a_stream_of_their_own(
    llava: Llava, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_graphs() as fake:
        _, state = llava.prefill(tiny_models.prompts_of(llava, tiny), 4)
        step = DecodeGraph._step
        monkeypatch.setattr(
            DecodeGraph, "_step", lambda self: (fake.events.append("step"), step(self))[1]
        )
        decode = DecodeGraph(llava, state)
        for token in (5, 6, 7):
            decode(torch.full((4,), token))
    assert fake.events == [
        "side waits for main",
        "on side",
        *["step"] * WARM_UPS,
        "off side",
        "main waits for side",
        "capture",
        "step",
    ]
    assert fake.replays == 3 and not fake.freed
    decode.close()
    assert fake.freed


def casts_of_weights(graph: FakeGraph, llava: Llava) -> int:
    """How many weights of the language model a graph casts each time."""
    weights = {x.data_ptr() for x in llava.language_model.parameters() if x.dim() == 2}
    casts = (args[0] for op, args, *_ in graph.calls if op is torch.ops.aten._to_copy.default)
    return sum(x.data_ptr() in weights for x in casts)


@torch.no_grad()
@pytest.mark.parametrize("around", [True, False])
def test_a_replay_casts_no_weights_within_the_block_of_the_prompts(
    tiny: Path, around: bool
) -> None:
    """Weights that train are float32, and multiply in bfloat16."""
    llava = tiny_models.load(tiny, "bfloat16")
    llava.train_language_model()
    with llava.autocast() if around else nullcontext(), fake_graphs() as fake:
        hidden, state = llava.prefill(tiny_models.prompts_of(llava, tiny), 4)
        decode = DecodeGraph(llava, state)
        for _ in range(2):
            hidden = decode(hidden.argmax(-1) % 50)
        casts = casts_of_weights(fake.graphs[0], llava)
    assert casts == 0 if around else casts > 10


@pytest.mark.parametrize(
    ("finished", "steps", "pays"),
    [(16, 80, True), (16, 79, False), (63, 21, True), (1, 999, False)],
)
def test_a_capture_pays_if_finished_rows_cost_more(
    monkeypatch: pytest.MonkeyPatch, finished: int, steps: int, pays: bool
) -> None:
    """Of 64 rows 16 waste a quarter of a replay: in 80 steps as much as 20 replays take."""
    monkeypatch.setattr(decode_graph, "CAPTURE_COST", 20)
    decode = DecodeGraph.__new__(DecodeGraph)
    decode._first_rows = 64
    assert decode.selection_pays(finished, steps) is pays


def refusal(call: Any, *arguments: Any, **options: Any) -> list[str]:
    """The lines of a refusal."""
    with pytest.raises(UsageError) as error:
        call(*arguments, **options)
    return str(error.value).splitlines()


def test_a_device_without_graphs_is_refused(llava: Llava, tiny: Path) -> None:
    lines = refusal(generate, llava, tiny_models.prompts_of(llava, tiny), GRAPHS)
    assert lines == [
        "only CUDA devices have graphs",
        "sampling.cuda_graphs=true device=cpu",
        "leave sampling.cuda_graphs out",
    ]


def test_the_transformers_engine_is_refused(llava: Llava, tiny: Path) -> None:
    engine: EngineKind = "transformers"
    prompts = tiny_models.prompts_of(llava, tiny)
    lines = refusal(generate, llava, prompts, GRAPHS, batch_generator=ENGINES[engine])
    assert len(lines) == 3 and lines[1] == "sampling.cuda_graphs=true"


@pytest.mark.parametrize(
    ("quantization", "reason"),
    [("int8", "int8 layers of bitsandbytes"), ("none", "weights that are not all on the GPU")],
)
def test_weights_that_cannot_be_captured_are_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, quantization: str, reason: str
) -> None:
    """The language model stays on the CPU, as where it is offloaded."""
    llava = tiny_models.load(tiny, quantization=quantization)
    monkeypatch.setattr(Llava, "device", torch.device("cuda", 0))
    lines = refusal(check_cuda_graphs, GRAPHS, llava)
    assert len(lines) == 3 and lines[0].startswith(reason)
    check_cuda_graphs(SamplingConfig(), llava)
