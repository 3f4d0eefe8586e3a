"""Decoding by graphs on a disguised GPU, whose captures refuse what those of CUDA refuse."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from rlhf.config.schema import SamplingConfig
from rlhf.errors import UsageError
from rlhf.generation import decode_graph
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.models.packed.kv_cache import DecodeState
from rlhf.tracking.profiler import Profile
from rlhf.types import Responses, SampledTokens
from tests.devices.runs import ppo_run, trained
from tests.devices.test_families import BY_NAME, GREEDY
from tests.families.comparison import batch
from tests.families.configurations import Configuration, build
from tests.support import tiny_models
from tests.support.disguised_gpu import disguised_gpu
from tests.support.fake_graphs import FakeCUDA, fake_graphs

SAMPLING = SamplingConfig(max_new_tokens=12)


@pytest.fixture
def early_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses end after few tokens, at different lengths."""
    monkeypatch.setattr(Llava, "eos_ids", property(lambda self: list(range(1, 300, 11))))


def sampled(tiny: Path, **options: Any) -> tuple[Responses, SampledTokens, int]:
    """Sample four responses to each of four prompts on the CPU; the number of steps comes last."""
    return _sampled(tiny, "cpu", SAMPLING, **options)


def sampled_by_graphs(
    tiny: Path, **options: Any
) -> tuple[tuple[Responses, SampledTokens, int], FakeCUDA]:
    """Sample the same by graphs on a disguised GPU."""
    with disguised_gpu() as gpu, fake_graphs(gpu) as fake:
        return _sampled(tiny, "cuda", replace(SAMPLING, cuda_graphs=True), **options), fake


def _sampled(
    tiny: Path, device: str, sampling: SamplingConfig, **options: Any
) -> tuple[Responses, SampledTokens, int]:
    llava = tiny_models.load(tiny, device=device)
    rows, profile = torch.arange(4).repeat_interleave(4), Profile()
    prompts = tiny_models.prompts_of(llava, tiny).select(rows)
    changes = {x: options.pop(x) for x in ("temperature", "top_p", "batch_size") if x in options}
    with profile.active():
        responses, tokens = generate(
            llava,
            prompts,
            replace(sampling, **changes),
            samples=torch.arange(16) % 4,
            seed=4,
            **options,
        )
        profile.end_iteration()
    return responses, tokens, profile.iterations[0].counts["decode_steps"]


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.0}, {"top_p": 0.8}, {"return_hidden_states": True}]
)
def test_tokens_are_those_of_the_cpu(tiny: Path, options: dict[str, Any]) -> None:
    expected, expected_tokens, _ = sampled(tiny, **options)
    (responses, tokens, steps), fake = sampled_by_graphs(tiny, **options)
    assert responses.rows() == expected.rows()
    torch.testing.assert_close(tokens.logprobs, expected_tokens.logprobs, atol=2e-5, rtol=0)
    if expected_tokens.hidden_states is not None:
        assert tokens.hidden_states is not None
        states: Tensor = tokens.hidden_states.cpu()
        torch.testing.assert_close(states, expected_tokens.hidden_states, atol=2e-5, rtol=0)
    assert len(fake.graphs) == 1 and fake.replays == steps == 11 and fake.freed


@pytest.mark.usefixtures("early_ends")
@pytest.mark.parametrize(("cost", "captures"), [(0, 4), (1, 3), (2, 2), (9999, 1)])
def test_rows_leave_where_another_capture_pays(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, cost: int, captures: int
) -> None:
    """Of 16 rows 5 may leave with 10 steps to go, 3 more with 6, 2 more with 3."""
    monkeypatch.setattr(decode_graph, "CAPTURE_COST", cost)
    expected, _, expected_steps = sampled(tiny)
    (responses, _, steps), fake = sampled_by_graphs(tiny)
    lengths = [1, 1, 2, 2, 2, 3, 6, 6, 7, 9, 11, *[12] * 5]
    assert sorted(expected.spans.lengths.tolist()) == lengths
    assert responses.rows() == expected.rows()
    assert len(fake.graphs) == captures and fake.freed
    assert fake.replays == steps == expected_steps


def test_each_batch_has_its_own_graph(tiny: Path) -> None:
    expected, *_ = sampled(tiny, batch_size=6)
    (responses, _, steps), fake = sampled_by_graphs(tiny, batch_size=6)
    assert responses.rows() == expected.rows()
    assert len(fake.graphs) == 3 and fake.replays == steps == 33 and fake.freed


def test_a_graph_is_freed_where_decoding_fails(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.generation.decode_loop.count", lambda *_: 1 / 0)
    with disguised_gpu() as gpu, fake_graphs(gpu) as fake:
        llava = tiny_models.load(tiny, device="cuda")
        prompts = tiny_models.prompts_of(llava, tiny)
        with pytest.raises(ZeroDivisionError):
            generate(llava, prompts, replace(SAMPLING, cuda_graphs=True))
    assert len(fake.graphs) == 1 and fake.replays == 1 and fake.freed


@pytest.mark.parametrize("what", ["waits", "sends"])
def test_a_model_that_cannot_be_captured_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    decode = Llava.decode

    def exchanging(self: Llava, tokens: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        hidden, state = decode(self, tokens, state)
        bool(hidden.isnan().any()) if what == "waits" else torch.ones(3).to(hidden.device)
        return hidden, state

    monkeypatch.setattr(Llava, "decode", exchanging)
    with pytest.raises(UsageError, match="cannot be captured as a CUDA graph") as error:
        sampled_by_graphs(tiny)
    assert len(str(error.value).splitlines()) == 3
    assert "operation not permitted when stream is capturing" in error.value.where


def test_memory_that_runs_out_in_a_capture_is_said_as_such(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the batch is tried again in parts."""
    decode, calls = Llava.decode, list[int]()

    def failing(self: Llava, tokens: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        calls.append(len(tokens))
        if len(calls) > decode_graph.WARM_UPS:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(self, tokens, state)

    monkeypatch.setattr(Llava, "decode", failing)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        sampled_by_graphs(tiny)


def check_family(configuration: Configuration, tiny: Path, directory: Path) -> None:
    """Compare greedy tokens by graphs with those of the CPU, or demand a refusal."""
    model, processor = build(configuration, AutoTokenizer.from_pretrained(tiny / "model"))
    copied = copy.deepcopy(model)

    def greedy(model: Any, sampling: SamplingConfig) -> list[list[int]]:
        llava = Llava(model, processor, str(directory))
        prompts, _ = batch(llava, configuration, directory)
        return generate(llava, prompts, sampling)[0].rows()

    expected = greedy(model, GREEDY)
    with disguised_gpu() as gpu, fake_graphs(gpu) as fake:
        by_graphs = replace(GREEDY, cuda_graphs=True)
        if "dynamic" in configuration.name or "longrope" in configuration.name:
            with pytest.raises(UsageError, match="dynamic RoPE.* cannot be captured"):
                greedy(copied.to("cuda"), by_graphs)
            return
        assert greedy(copied.to("cuda"), by_graphs) == expected
    assert fake.replays == GREEDY.max_new_tokens - 1


@pytest.mark.parametrize(
    "name",
    [
        "text model Mistral, window of 8",
        "text model Gemma-3",  # a window in some layers
        "text model Llama, one key head",
        "text model Llama, YaRN",
        "text model Llama, dynamic RoPE",
        "LLaVA: 0, 1 and 2 images a row",
    ],
)
def test_a_family_decodes_by_graphs(tiny: Path, tmp_path: Path, name: str) -> None:
    check_family(BY_NAME[name], tiny, tmp_path)


@pytest.mark.parametrize("lora_type", ["lora", "alora"])
def test_ppo_by_graphs_trains_the_weights_of_the_cpu(tiny: Path, lora_type: str) -> None:
    """Weights move between its batches; the samples that are logged are greedy ones."""
    reference = ppo_run(tiny, lora_type=lora_type)
    reference.run()
    with disguised_gpu() as gpu, fake_graphs(gpu) as fake:
        run = ppo_run(tiny, device="cuda", cuda_graphs=True, lora_type=lora_type)
        run.run()
        weights = trained(run)
    assert len(fake.graphs) == 2 + 1 and fake.freed
    for name, expected in trained(reference).items():
        torch.testing.assert_close(weights[name], expected, atol=2e-5, rtol=2e-5)


def test_ppo_refuses_graphs_before_it_samples(tiny: Path) -> None:
    with pytest.raises(UsageError, match="only CUDA devices have graphs"):
        ppo_run(tiny, cuda_graphs=True)
