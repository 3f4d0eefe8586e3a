"""Both engines sample the same tokens, and a run by either is the same run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.config.schema import ModelConfig, SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.generation.transformers_engine import hf_generate_batch
from rlhf.models.llava import Llava
from rlhf.models.policy import build_policy
from tests.models.test_alora import adapted
from tests.support import tiny_models


@pytest.mark.parametrize("lora_type", ["lora", "alora"])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_both_engines_sample_the_same_tokens(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, lora_type: str, temperature: float
) -> None:
    """Prompts of different lengths, two responses each, of which some end early."""
    llava = adapted(tiny, lora_type)
    monkeypatch.setattr(Llava, "eos_ids", property(lambda self: list(range(1, 300, 23))))
    prompts = tiny_models.prompts_of(llava, tiny).select(torch.arange(4).repeat_interleave(2))
    samples = torch.arange(2).repeat(4)
    sampling = SamplingConfig(temperature=temperature, max_new_tokens=12, batch_size=5)
    options = {"seed": 3, "iteration": 2, "samples": samples}
    native, native_details = generate(llava, prompts, sampling, **options)  # type: ignore[arg-type]
    options["batch_generator"] = hf_generate_batch
    expected, details = generate(llava, prompts, sampling, **options)  # type: ignore[arg-type]
    assert native.rows() == expected.rows()
    assert torch.equal(native.finished, expected.finished)
    torch.testing.assert_close(native_details.logprobs, details.logprobs, atol=2e-5, rtol=0)
    if temperature:
        assert len({*map(tuple, native.rows())}) == 8
        assert len({*native.spans.lengths.tolist()}) > 2


@pytest.mark.parametrize("lora_type", ["lora", "alora"])
def test_a_run_by_either_engine_is_the_same(tiny: Path, tmp_path: Path, lora_type: str) -> None:
    runs = []
    for engine in ("native", "transformers"):
        llava = tiny_models.load(tiny)
        config = ModelConfig(lora_rank=4, lora_type=lora_type)  # type: ignore[arg-type]
        torch.manual_seed(0)
        policy = build_policy(llava, config, temperature=1.0)
        run = tiny_models.two_iterations(
            policy, tiny_models.prompts_of(llava, tiny), tmp_path / engine
        )
        run.config = replace(run.config, engine=engine)
        run.run()
        runs.append((run.metrics, policy.trainable_parameters()))
    (metrics, parameters), (hf_metrics, hf_parameters) = runs
    for name, value in metrics.items():
        if not name.startswith(("time", "throughput", "memory")):
            assert hf_metrics[name] == pytest.approx(value, abs=1e-4, rel=1e-4), name
    for name, weights in parameters.items():
        torch.testing.assert_close(hf_parameters[name], weights, atol=1e-5, rtol=0)
