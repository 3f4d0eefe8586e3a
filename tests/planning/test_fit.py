"""The smallest change that makes a run fit: cheap options first, none without need."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest

from rlhf.config.schema import GIB, Config, ModelConfig
from rlhf.errors import UsageError
from rlhf.models.locations import ModelLocation
from rlhf.planning import devices
from rlhf.planning.devices import GPUS, Device, Kind, find_device, match_gpu
from rlhf.planning.fit import (
    OPTIONS,
    changed_options,
    smallest_change,
    uses_gradient_checkpointing,
)
from rlhf.planning.memory import estimate_memory
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.workload import Stage, Workload
from rlhf.planning.workload_options import workload_of
from tests.support.planned import WORKLOAD

WORKLOADS = {
    "default": WORKLOAD,
    "nf4": replace(WORKLOAD, quantization="nf4"),
    "large": replace(WORKLOAD, critic="separate", lora_rank=256, sampling_batch_size=512),
    "alora": replace(WORKLOAD, lora_type="alora", gradient_checkpointing=True),
    "full": replace(WORKLOAD, train="full", dtype="float32", reward="base_model"),
}


def change(dims: ModelDims, workload: Workload, gib: float) -> dict[str, Any]:
    return changed_options(workload, smallest_change(dims, workload, gib * GIB))


def test_a_workload_that_fits_is_unchanged(llava_7b: ModelDims) -> None:
    assert change(llava_7b, WORKLOAD, 139) == {}


def test_changes_that_only_cost_time_come_first(llava_7b: ModelDims) -> None:
    assert change(llava_7b, WORKLOAD, 50) == {"ppo.microbatch_tokens": 4096}
    one_row = replace(WORKLOAD, microbatch_tokens=1000, sampling_batch_size=4)
    assert change(llava_7b, one_row, 20) == {"model.gradient_checkpointing": True}
    assert change(llava_7b, replace(WORKLOAD, quantization="nf4"), 22.5) == {
        "ppo.microbatch_tokens": 2048,
        "sampling.batch_size": 32,
    }


def test_the_prefix_cache_shrinks_before_the_sampling_batch(llava_7b: ModelDims) -> None:
    alora = replace(WORKLOADS["alora"], quantization="nf4", sampling_batch_size=16)
    assert change(llava_7b, alora, 19) == {}
    assert change(llava_7b, alora, 17) == {"model.prefix_cache_gib": 2.0}
    assert change(llava_7b, replace(alora, lora_type="lora"), 14)["sampling.batch_size"] == 8


def test_quantization_is_the_last_change(llava_7b: ModelDims) -> None:
    assert change(llava_7b, WORKLOAD, 15)["model.quantization"] == "int8"
    assert change(llava_7b, WORKLOAD, 9.5)["model.quantization"] == "nf4"


def test_full_training_changes_neither_quantization_nor_rank(llava_7b: ModelDims) -> None:
    assert not {"model.quantization", "model.lora_rank"} & {
        *change(llava_7b, WORKLOADS["full"], 10)
    }


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("gib", [2, 7, 8, 9.5, 11, 13, 15, 22.5, 30, 45, 75, 100, 150])
def test_every_change_is_needed(llava_7b: ModelDims, name: str, gib: float) -> None:
    workload = WORKLOADS[name]
    smaller_change = smallest_change(llava_7b, workload, gib * GIB)
    peak = estimate_memory(llava_7b, smaller_change).peak
    limit = max(peak, gib * GIB)
    changed = [
        field for field in OPTIONS if getattr(smaller_change, field) != getattr(workload, field)
    ]
    for field in changed:
        undone = replace(smaller_change, **{field: getattr(workload, field)})
        assert estimate_memory(llava_7b, undone).peak > limit
    assert smaller_change.microbatch_tokens >= min(
        workload.microbatch_tokens, smaller_change.sequence_tokens
    )


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_step_raises_the_peak(llava_7b: ModelDims, name: str) -> None:
    workload = WORKLOADS[name]
    strongest = smallest_change(llava_7b, workload, 0)
    for field in OPTIONS:
        before, workload = workload, replace(workload, **{field: getattr(strongest, field)})
        assert estimate_memory(llava_7b, workload).peak <= estimate_memory(llava_7b, before).peak
    assert (
        estimate_memory(llava_7b, workload).peak < estimate_memory(llava_7b, WORKLOADS[name]).peak
    )


def test_a_gpu_is_found_by_its_name() -> None:
    assert find_device("nvidia rtx-4090") is GPUS["RTX 4090"]
    assert GPUS["T4"].gib == 15
    assert [gpu.gib for gpu in GPUS.values()][-1] > 130


@pytest.mark.parametrize("name", ["M2 Max 64GB", "apple m2-max 64 gb", "m2 max 64GiB"])
def test_a_mac_is_found_by_chip_and_memory(name: str) -> None:
    mac = find_device(name)
    assert (mac.name, mac.kind, mac.bandwidth_tbs) == ("M2 Max 64GB", "mps", 0.4)
    assert mac.gib == pytest.approx(0.74 * 64) and not mac.has_rates
    assert find_device("M1 Pro 16GB").has_rates


@pytest.mark.parametrize("name", ["M2 Max", "M7 64GB", "abacus", "M2 Max Plus 64GB"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"no device named {name}"):
        find_device(name)


@pytest.mark.parametrize(("text", "gib"), [("max\n", None), ("4294967296\n", 4.0), (None, None)])
def test_a_container_has_less_memory_than_its_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, gib: float | None
) -> None:
    limit = tmp_path / "memory.max"
    if text:
        limit.write_text(text)
    monkeypatch.setattr(devices, "CGROUP_LIMIT", limit)
    cpu = find_device("cpu")
    assert cpu.gib == pytest.approx(gib or psutil.virtual_memory().total / GIB)
    assert (cpu.kind, cpu.is_local, cpu.has_rates) == ("cpu", True, False)


@pytest.mark.parametrize("stage", get_args(Stage))
@pytest.mark.parametrize("kind", get_args(Kind))
def test_layers_are_recomputed_where_the_stage_needs_it(
    monkeypatch: pytest.MonkeyPatch, llava_7b: ModelDims, stage: Any, kind: Any
) -> None:
    location = ModelLocation("llava-hf/llava-1.5-7b-hf", None)
    run = workload_of(Config(), llava_7b, starts_from_adapter=False, stage=stage, device=kind)
    needed = estimate_memory(llava_7b, run).peak / GIB
    for gib, expected in ((needed - 0.1, True), (needed + 0.1, False)):
        device = Device("this one", gib, 0, 0, 0, kind)
        monkeypatch.setattr("rlhf.planning.fit.local_device", lambda _, device=device: device)
        assert uses_gradient_checkpointing(Config(), location, stage) is expected
    never = Config(model=ModelConfig(gradient_checkpointing=False))
    assert not uses_gradient_checkpointing(never, location, stage)


def test_a_local_gpu_has_its_own_memory_and_the_speed_of_its_model() -> None:
    assert match_gpu("NVIDIA A100-SXM4-80GB", 79.3).bandwidth_tbs == 2.039
    assert match_gpu("NVIDIA A100-SXM4-40GB", 39.4).bandwidth_tbs == 1.555
    rtx_4060_ti = match_gpu("NVIDIA GeForce RTX 4060 Ti", 15.6)
    assert (rtx_4060_ti.name, rtx_4060_ti.gib, rtx_4060_ti.bfloat16_tflops) == (
        "NVIDIA GeForce RTX 4060 Ti",
        15.6,
        44.1,
    )
    assert match_gpu("NVIDIA GeForce RTX 4090", 23.5).bfloat16_tflops == 165.2
    assert match_gpu("NVIDIA A10G", 22).bandwidth_tbs == 0
