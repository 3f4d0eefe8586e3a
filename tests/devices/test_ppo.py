"""PPO on a disguised GPU: no tensors mix, and it trains the weights that it trains on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.devices.runs import ppo_run, sometimes_scored, trained
from tests.support.device_tensor import DisguisedGPU, Kind
from tests.support.disguised_gpu import disguised_gpu

BY_GRADIENT: dict[str, Any] = {"critic_fit": "gradient", "value_features": ()}
RUNS: dict[str, dict[str, Any]] = {
    "defaults": {"sanity_checks": True},
    "full, k2 in the loss, pairs": {
        "train": "full",
        "critic": "shared",
        "kl_placement": "loss",
        "kl_estimator": "k2",
        "samples_per_prompt": 2,
        **BY_GRADIENT,
    },
    "full, exact KL, bootstrap": {
        "train": "full",
        "kl_placement": "loss",
        "kl_estimator": "exact",
        "missing_eos": "bootstrap",
    },
    "critic with an adapter, checkpointing": {
        "critic": "adapter",
        "gradient_checkpointing": True,
        "temperature": 0.7,
        **BY_GRADIENT,
    },
    "separate critic, no recomputing": {
        "critic": "separate",
        "recompute_logprobs": False,
        **BY_GRADIENT,
    },
    "aLoRA": {"lora_type": "alora", "missing_eos": "bootstrap"},
    "rloo by transformers": {
        "advantage_estimator": "rloo",
        "samples_per_prompt": 2,
        "engine": "transformers",
    },
    "sum of rewards, dropped scores, judge, network as critic": {
        "reward": sometimes_scored(),
        "critic_head": "mlp",
        "critic_warmup_iterations": 1,
        "clip_range_value": 0.2,
        "normalize_scores": True,
        "ent_coef": 0.01,
        **BY_GRADIENT,
    },
    "grpo in groups of 4": {"advantage_estimator": "grpo", "samples_per_prompt": 4},
}


def check_equal_to_cpu(
    tiny: Path, kind: Kind, options: dict[str, Any], *, triton: bool = False
) -> DisguisedGPU:
    """Train on the CPU and on a disguised GPU, which is returned, and compare all weights."""
    reference = ppo_run(tiny, **options)
    before = trained(reference)
    reference.run()
    expected = trained(reference)
    with disguised_gpu(kind, triton=triton) as gpu:
        run = ppo_run(tiny, device=kind, **options)
        run.run()
        actual = trained(run)
    assert any(not torch.equal(expected[name], before[name]) for name in expected)
    for name, weights in actual.items():
        torch.testing.assert_close(weights, expected[name], atol=2e-5, rtol=2e-5)
    return gpu


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_cuda_trains_the_weights_of_the_cpu(tiny: Path, options: dict[str, Any]) -> None:
    check_equal_to_cpu(tiny, "cuda", options)


@pytest.mark.parametrize("name", ["defaults", "full, exact KL, bootstrap", "rloo by transformers"])
def test_mps_trains_the_weights_of_the_cpu(tiny: Path, name: str) -> None:
    check_equal_to_cpu(tiny, "mps", RUNS[name])


@pytest.mark.filterwarnings("ignore:CUDA is not available")  # for autocast
@pytest.mark.parametrize("train", ["lora", "full"])
def test_bfloat16_mixes_no_devices(tiny: Path, train: str) -> None:
    """Its rounding is not that of the CPU, and autocast is off in disguise: it only has to run."""
    with disguised_gpu():
        run = ppo_run(tiny, device="cuda", dtype="bfloat16", train=train)
        run.run()
    assert run.updater.skipped_steps == 0 and run.iteration == 2
