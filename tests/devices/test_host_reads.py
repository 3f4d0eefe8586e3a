"""How often the host waits for a GPU; each time, the GPU runs out of work."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.schema import EngineKind, SamplingConfig
from rlhf.generation.engines import ENGINES
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from tests.devices.runs import ppo_run
from tests.devices.test_ppo import BY_GRADIENT
from tests.support import tiny_models
from tests.support.device_tensor import DisguisedGPU, Kind
from tests.support.disguised_gpu import disguised_gpu
from tests.support.fake_graphs import fake_graphs


def by_operator(gpu: DisguisedGPU) -> Counter[str]:
    """Host reads of each operator."""
    counts = Counter[str]()
    for (operator, _), count in gpu.host_reads.items():
        counts[operator] += count
    return counts


def by_file(gpu: DisguisedGPU) -> Counter[str]:
    """Host reads in each file of the package."""
    counts = Counter[str]()
    for (_, site), count in gpu.host_reads.items():
        counts[site.partition(":")[0]] += count
    return counts


@pytest.mark.parametrize(("kind", "graphs"), [("cuda", False), ("mps", False), ("cuda", True)])
@pytest.mark.parametrize("return_hidden_states", [False, True])
def test_a_decoded_token_is_read_once(
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    graphs: bool,
    return_hidden_states: bool,
) -> None:
    monkeypatch.setattr(Llava, "eos_ids", property(lambda self: list(range(1, 300, 11))))
    monkeypatch.setattr("rlhf.generation.decode_graph.CAPTURE_COST", 0)
    with disguised_gpu(kind) as gpu, fake_graphs(gpu):
        llava = tiny_models.load(tiny, device=kind)
        prompts = tiny_models.prompts_of(llava, tiny, 8)
        sampling = SamplingConfig(max_new_tokens=12, top_p=0.9, cuda_graphs=graphs)
        generate(llava, prompts, sampling)  # reads image features into their cache
        gpu.host_reads.clear()
        responses, _ = generate(
            llava, prompts, sampling, seed=2, return_hidden_states=return_hidden_states
        )
    assert len({*responses.spans.lengths.tolist()}) > 3  # rows left the batch
    assert gpu.host_reads.total() == responses.spans.max_len


def test_the_transformers_engine_is_read_at_its_end(tiny: Path) -> None:
    """At each token `generate` of transformers itself asks whether all rows have ended."""
    engine: EngineKind = "transformers"
    with disguised_gpu() as gpu:
        llava = tiny_models.load(tiny, device="cuda")
        prompts = tiny_models.prompts_of(llava, tiny)
        gpu.host_reads.clear()
        sampling = SamplingConfig(max_new_tokens=8)
        generate(llava, prompts, sampling, batch_generator=ENGINES[engine])
    assert {*by_file(gpu)} == {"generation/transformers_engine.py"}
    assert by_operator(gpu)["aten::_to_copy"] == 2


PER_ITERATION = {
    "generation/token_sampling.py": 6,  # one a token
    "data/microbatching.py": 4,  # scores, two of the policy, one of the reference; a microbatch
    "rewards/base.py": 1,
    "ppo/value_function.py": 1,
    "training/gradient_accumulation.py": 1,  # an optimizer step, however many microbatches
    "training/gradients.py": 1,  # an optimizer step
}


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {}),
        ({"microbatch_tokens": 60}, {"data/microbatching.py": 4 * 4}),
        ({"kl_placement": "loss", "kl_estimator": "exact"}, {"data/microbatching.py": 5}),
        (
            {"critic": "separate", **BY_GRADIENT},
            {"data/microbatching.py": 3, "training/gradients.py": 2},
        ),
    ],
)
def test_an_iteration_waits_so_often(
    tiny: Path, options: dict[str, Any], changes: dict[str, int]
) -> None:
    with disguised_gpu() as gpu:
        run = ppo_run(tiny, device="cuda", **options)
        run.step(0)  # reads image features into their cache
        gpu.host_reads.clear()
        run.step(1)
    assert by_file(gpu) == PER_ITERATION | changes
