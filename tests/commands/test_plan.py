"""`rlhf plan`: metrics and verdicts from options alone, without weights or network."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from rlhf.commands.job import Job
from rlhf.commands.plan import plan
from rlhf.config.schema import (
    Config,
    ModelConfig,
    PlanConfig,
    PPOConfig,
    RewardConfig,
    SamplingConfig,
)
from rlhf.errors import UsageError
from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY
from rlhf.planning.devices import GPUS, Device
from rlhf.planning.model_dims import read_dims
from rlhf.planning.workload_options import workload_of

LLAVA_7B = "llava-hf/llava-1.5-7b-hf"


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only directories are read, and no machine has a GPU."""
    from_pretrained: Callable[..., Any] = AutoConfig.from_pretrained

    def read_local(path: str, **options: Any) -> Any:
        if not Path(path).is_dir():
            raise OSError(f"cannot reach the hub for {path}")
        return from_pretrained(path, **options)

    monkeypatch.setattr(AutoConfig, "from_pretrained", read_local)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def plan_of_model(path: str, **options: Any) -> dict[str, Any]:
    config = Config(model=ModelConfig(path=path), **options)
    return run_plan(config)


def run_plan(config: Config, *words: str) -> dict[str, Any]:
    return plan(Job(config, Path(), [Path(word) for word in words], [], lambda *_: (Path(), {})))


def test_the_7b_is_planned_for_every_card(capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelConfig(path=LLAVA_7B, lora_rank=64, quantization="nf4")
    sampling = SamplingConfig(max_new_tokens=128, batch_size=16)
    metrics = run_plan(
        Config(model=model, sampling=sampling, ppo=PPOConfig(microbatch_tokens=1024))
    )
    json.dumps(metrics)
    assert [*metrics["devices"]] == ["this CPU", *GPUS]
    assert [*metrics["seconds"]] == [*GPUS]
    assert metrics["devices"]["T4"]["fits"]
    assert metrics["resident"]["adapter: policy"] == 4 * 159_907_840
    assert metrics["phases"]["rollout"]["KV cache"] == 16 * 768 * 2**19
    assert max(metrics["peaks"].values()) == metrics["peak_gib"] * 2**30
    output = capsys.readouterr().out
    assert "T4: fits" in output and "adapter: policy" in output and "ideal seconds" in output


def test_the_verdict_names_the_options_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = plan_of_model(LLAVA_7B, sampling=SamplingConfig(max_new_tokens=128))
    verdict = metrics["devices"]["RTX 3090"]
    assert not verdict["fits"]
    options = " ".join(f"{name}={value}" for name, value in verdict["change"].items()).lower()
    assert options and f"fits with {options}" in capsys.readouterr().out


def test_what_cannot_fit_says_what_it_needs() -> None:
    metrics = run_plan(Config(model=ModelConfig(path=LLAVA_7B, train="full")))
    assert "does not fit" in metrics["devices"]["T4"]["says"]
    assert metrics["resident"]["second base model: reference"] > 26 * 2**30


def test_a_directory_and_an_adapter_on_it_are_planned(tiny: Path, tmp_path: Path) -> None:
    base = str(tiny / "model")
    fresh = plan_of_model(base)
    assert fresh["devices"]["T4"]["fits"] and "adapter: reference" not in fresh["resident"]
    llava = Llava.load(base, device=torch.device("cpu"), dtype=torch.float32)
    llava.adapters.add(POLICY, rank=4, alpha=8)
    llava.adapters.save(POLICY, tmp_path / "adapter", base)
    continued = plan_of_model(str(tmp_path))["resident"]
    assert continued["adapter: reference"] == continued["adapter: policy"]


def test_one_card_is_asked_for_and_checkpointing_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(model=ModelConfig(path=LLAVA_7B), ppo=PPOConfig(minibatch_size=16))
    on_l40s = replace(config, plan=PlanConfig(device="l40s"))
    assert [*run_plan(on_l40s)["devices"]] == ["L40S"]
    assert "prefill" in capsys.readouterr().out
    assert config.model.gradient_checkpointing == "auto"
    without_checkpointing = replace(
        on_l40s, model=ModelConfig(path=LLAVA_7B, gradient_checkpointing=False)
    )
    peak = run_plan(without_checkpointing)["peaks"]["update"]
    assert run_plan(on_l40s)["peaks"]["update"] < peak
    on_h200 = replace(config, plan=PlanConfig(device="H200"))
    assert run_plan(on_h200)["peaks"]["update"] == peak


def test_each_command_that_trains_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(model=ModelConfig(path=LLAVA_7B), plan=PlanConfig(device="A40"))
    peaks = {name: run_plan(config, name)["peaks"] for name in ("ppo", "reward", "sft")}
    assert [[*phases] for phases in peaks.values()] == [
        ["rollout", "scoring", "update"],
        ["scoring", "update"],
        ["update"],
    ]
    assert run_plan(config)["peaks"] == peaks["ppo"]
    output = capsys.readouterr().out
    assert "one optimizer step of rlhf reward" in output
    assert output.count("to spare, with gradient checkpointing") == 4  # as "auto" would choose
    for words in (["evaluate"], ["ppo", "sft"]):
        with pytest.raises(UsageError, match="no command that is planned"):
            run_plan(config, *words)
    with pytest.raises(UsageError, match="on captions is not planned"):
        run_plan(replace(config, reward=RewardConfig(kind="caption_text")), "reward")


def test_this_cpu_is_measured(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = Device("measured", 0, 2.0, 2.0, 0.5)
    monkeypatch.setattr("rlhf.commands.plan.calibrate", lambda *_: measured)
    config = Config(model=ModelConfig(path=str(tiny / "model")), plan=PlanConfig(device="cpu"))
    metrics = run_plan(config, "sft")
    assert metrics["devices"]["this CPU"]["fits"] and metrics["seconds"]["this CPU"]["update"] > 0
    assert metrics["resident"]["process"] == 2**29
    assert "this CPU: fits" in capsys.readouterr().out


def test_options_reach_the_setup() -> None:
    dims, config = read_dims(LLAVA_7B), Config(sampling=SamplingConfig(max_new_tokens=9))
    workload = workload_of(config, dims, starts_from_adapter=True)
    assert (workload.prompt_tokens, workload.max_new_tokens, workload.dtype) == (640, 9, "bfloat16")
    assert workload.starts_from_adapter and workload.reward == "adapter"
    full = workload_of(
        replace(config, model=ModelConfig(train="full")), dims, starts_from_adapter=False
    )
    assert (full.dtype, full.reward) == ("float32", "base_model")
    short = replace(config, plan=PlanConfig(prompt_tokens=10))
    assert workload_of(short, dims, starts_from_adapter=False).prompt_tokens == 586
    chosen = Config(
        model=ModelConfig(gradient_checkpointing=True, lora_rank=5, quantization="int8"),
        ppo=PPOConfig(critic="adapter", optimizer="adamw_8bit", ppo_epochs=7),
        sampling=SamplingConfig(batch_size=3),
        reward=RewardConfig(kind="caption_text"),
    )
    workload = workload_of(chosen, dims, starts_from_adapter=False)
    assert (workload.critic, workload.optimizer, workload.ppo_epochs) == (
        "adapter",
        "adamw_8bit",
        7,
    )
    assert (workload.gradient_checkpointing, workload.lora_rank) == (True, 5)
    assert (workload.quantization, workload.sampling_batch_size) == ("int8", 3)
    assert workload.reward == "none"


def test_refusals_name_the_option(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model is given"):
        plan_of_model("")
    with pytest.raises(UsageError, match="cannot be read"):
        plan_of_model("someone/unknown")
    with pytest.raises(UsageError, match="no device named abacus"):
        plan_of_model(LLAVA_7B, plan=PlanConfig(device="abacus"))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UsageError, match="is no LLaVA but llama"):
        plan_of_model(str(tmp_path))
