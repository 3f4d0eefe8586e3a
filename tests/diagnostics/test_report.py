"""What `rlhf doctor` concludes: every mismatch, from literal facts."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf.config.schema import Config, ModelConfig, ParallelConfig
from rlhf.diagnostics.checks import CheckResult
from rlhf.diagnostics.environment import Device, Environment, driver_facts, torch_facts
from rlhf.diagnostics.problems import find_problems, fix_for
from rlhf.diagnostics.report import build_report, chosen_dtype, raise_if_blocked
from rlhf.errors import ResourceError

CPU = Device("cpu", "x86_64")
BUILT = "install torch built for CUDA {}, as pytorch.org/get-started says"
SOUND = Environment(
    python="3.11.7",
    versions={"torch": "2.11.0+cu126", "bitsandbytes": "0.50.2", "triton": "3.6.0"},
    requirements={"rlhf-llava": ("torch>=2.10", "bitsandbytes>=0.49"), "torch": ("triton==3.6.0",)},
    torch_cuda="12.6",
    torch_archs=("sm_80", "sm_86", "sm_90", "compute_90"),
    driver="570.86.15",
    driver_cuda="12.8",
    devices=(CPU, Device("cuda:0", "NVIDIA GeForce RTX 4090", "sm_89")),
    bnb_library="libbitsandbytes_cuda126.so",
    bnb_cuda_versions=("11.8", "12.6", "12.8"),
    disk_free=50 * 10**9,
)
NO_GPU = replace(SOUND, devices=(CPU,), bnb_library="libbitsandbytes_cpu.so")
CPU_BUILD = replace(NO_GPU, torch_cuda="", versions={**SOUND.versions, "torch": "2.11.0+cpu"})
NO_BITS = replace(SOUND, bnb_library="", bnb_error="No compatible CUDA binary found at x.so")


def with_gpu(model: str, arch: str) -> Environment:
    return replace(SOUND, devices=(CPU, Device("cuda:0", model, arch)))


def with_version(name: str, version: str) -> Environment:
    return replace(SOUND, versions={**SOUND.versions, name: version})


MISMATCHES = [
    ("torch too old", with_version("torch", "2.9.1+cu126"), "versions",
     "rlhf-llava asks for torch>=2.10, and 2.9.1+cu126", 'pip install "torch>=2.10"'),
    ("triton not torch's", with_version("triton", "3.5.1"), "versions",
     "torch asks for triton==3.6.0, and 3.5.1", 'pip install "triton==3.6.0"'),
    ("a package is missing", replace(SOUND, requirements={"rlhf-llava": ("peft>=0.19",)}),
     "versions",
     "rlhf-llava asks for peft>=0.19, and it is not installed", 'pip install "peft>=0.19"'),
    ("torch for the CPU", CPU_BUILD, "GPU",
     "2.11.0+cpu is built without CUDA, beside NVIDIA driver 570.86.15 (CUDA 12.8)",
     BUILT.format(12)),
    ("torch for the CPU, new driver", replace(CPU_BUILD, driver_cuda="13.1"), "GPU",
     "built without CUDA", BUILT.format(13)),
    ("torch for the CPU, ancient driver", replace(CPU_BUILD, driver_cuda="11.4"), "GPU",
     "built without CUDA", f"update the driver to 525 or later, then {BUILT.format(12)}"),
    ("driver too old", replace(NO_GPU, torch_cuda="13.0"), "GPU",
     "driver 570.86.15 (CUDA 12.8) is older than torch's CUDA 13.0",
     f"update the driver to 580 or later, or {BUILT.format(12)}"),
    ("driver too old, by torch's word", replace(NO_GPU, torch_cuda="13.0", driver=""), "GPU",
     "driver ? (CUDA 12.8) is older than torch's CUDA 13.0", "update the driver to 580"),
    ("10 is more than 8", replace(NO_GPU, torch_cuda="12.10"), "GPU",
     "is older than torch's CUDA 12.10", "update the driver to 525"),
    ("GPUs hidden", replace(NO_GPU, cuda_visible_devices=""), "GPU",
     "CUDA_VISIBLE_DEVICES='' hides every GPU", "unset CUDA_VISIBLE_DEVICES"),
    ("nvidia-smi fails", replace(NO_GPU, driver="", driver_error="version mismatch"), "GPU",
     "nvidia-smi fails: version mismatch", "sudo reboot"),
    ("no reason known", replace(NO_GPU, gpu_error="CUDA unknown error"), "GPU",
     "torch finds no GPU beside driver 570.86.15 (CUDA 12.8): CUDA unknown error", "nvidia-smi -L"),
    ("GPU too old for torch", with_gpu("GTX 1080", "sm_61"), "device",
     "GTX 1080 is sm_61, and torch is built for sm_80 sm_86", BUILT.format(12)),
    ("GPU too new for torch", replace(with_gpu("RTX 5090", "sm_120"), torch_archs=("sm_90",)),
     "device", "RTX 5090 is sm_120", f"update the driver to 580 or later, then {BUILT.format(13)}"),
    ("GPU too new, driver is not", replace(with_gpu("RTX 5090", "sm_120"), torch_archs=("sm_90",),
     driver_cuda="13.0"), "device", "RTX 5090 is sm_120", BUILT.format(13)),
    ("no library for this CUDA", replace(NO_BITS, torch_cuda="12.9"), "bitsandbytes",
     "bitsandbytes 0.50.2 has no library for CUDA 12.9: No compatible CUDA binary found at x.so "
     "(it has 11.8 12.6 12.8)", "pip install --upgrade bitsandbytes"),
    ("library for the CPU only", replace(SOUND, bnb_library="libbitsandbytes_cpu.so"),
     "bitsandbytes", "it loaded libbitsandbytes_cpu.so", "--force-reinstall bitsandbytes"),
    ("library lacks another", replace(NO_BITS, bnb_error="libcublas.so.12: cannot open shared "
     "object file"), "bitsandbytes", "libcublas.so.12", "--force-reinstall torch bitsandbytes"),
    ("library named by hand", replace(NO_BITS, bnb_cuda_override="118"), "bitsandbytes",
     "BNB_CUDA_VERSION=118 names a library that fails", "unset BNB_CUDA_VERSION"),
    ("no library on the CPU", replace(NO_GPU, driver="", driver_cuda="", bnb_library="",
     bnb_error="it runs without"), "speed", "loaded no native library and is slow: it runs",
     "--force-reinstall bitsandbytes"),
    ("disk full", replace(SOUND, disk_free=999_999_999), "disk",
     "1.00 GB of disk are left for output_dir=runs", "output_dir=DIRECTORY"),
    ("torch broken", Environment(import_errors={
     "torch": "libcudart.so.13: cannot open shared object file",
     "rlhf.tracking.writer": "the same"}), "libraries", "torch does not load: libcudart.so.13",
     "--force-reinstall torch"),
    ("a library is missing", Environment(import_errors={
     "rlhf.models.quantization": "No module named 'peft.x'"}),
     "libraries", "rlhf.models.quantization does not load", "pip install peft"),
]  # fmt: skip


def test_a_valid_environment_has_no_mismatch() -> None:
    assert find_problems(SOUND, Config(device="cuda")) == []
    assert find_problems(replace(SOUND, driver_cuda="12.2"), Config()) == []  # runs: the same major
    assert find_problems(with_gpu("H200", "sm_90"), Config()) == []
    assert find_problems(with_gpu("B200", "sm_100"), Config()) == []  # compiled on the spot
    assert find_problems(Environment(devices=(CPU,)), Config()) == []


@pytest.mark.parametrize(
    ("environment", "part", "what", "fix"),
    [row[1:] for row in MISMATCHES],
    ids=[row[0] for row in MISMATCHES],
)
def test_each_mismatch_is_named_with_its_fix(
    environment: Environment, part: str, what: str, fix: str
) -> None:
    [problem] = find_problems(environment, Config())
    assert problem.component == part
    assert what in problem.description
    assert fix in problem.fix
    assert ("update the driver" in problem.fix) == ("update the driver" in fix)


def test_a_missing_triton_is_noticed() -> None:
    versions = {"torch": "2.11.0+cu126", "bitsandbytes": "0.50.2"}
    problems = find_problems(replace(SOUND, versions=versions), Config())
    assert [problem.component for problem in problems] == ["versions", "speed"]
    assert {problem.fix for problem in problems} == {'pip install "triton==3.6.0"'}


def test_a_gpu_that_is_not_used_is_only_noticed() -> None:
    old_gpu = Device("cuda:1", "GTX 1080", "sm_61")
    second = replace(SOUND, devices=(*SOUND.devices, old_gpu))
    assert [problem.component for problem in find_problems(second, Config())] == ["GPU"]
    with_only_gpu = with_gpu("GTX 1080", "sm_61")
    assert [
        problem.component for problem in find_problems(with_only_gpu, Config(device="cpu"))
    ] == ["GPU"]
    [problem] = find_problems(CPU_BUILD, Config(device="mps"))
    assert (problem.component, problem.fix) == ("device", "set device=auto")


@pytest.mark.parametrize(
    ("environment", "what", "fix"),
    [
        (
            CPU_BUILD,
            "device=cuda is asked for: torch 2.11.0+cpu is built without",
            BUILT.format(12),
        ),
        (Environment(devices=(CPU,)), "there is no driver, torch has no CUDA", "set device=auto"),
        (
            Environment(devices=(CPU,), torch_cuda="12.6", gpu_error="Found no NVIDIA driver"),
            "Found no NVIDIA driver, torch is built for CUDA 12.6",
            "install an NVIDIA driver",
        ),
    ],
)
def test_a_gpu_that_is_asked_for_and_absent_stops(
    environment: Environment, what: str, fix: str
) -> None:
    config = Config(device="cuda")
    with pytest.raises(ResourceError, match="device=cuda") as caught:
        raise_if_blocked(build_report(config, environment, []), config)
    assert what in caught.value.what and fix in caught.value.fix
    assert caught.value.where == "device=cuda dtype=auto model.quantization=none"
    assert caught.value.exit_code == 5
    assert build_report(Config(), environment, []).blocking == []


def test_only_what_the_options_need_stops() -> None:
    def blocking(
        environment: Environment, failed: str, device: Any = "auto", **model: Any
    ) -> list[str]:
        config = Config(device=device, model=ModelConfig(**model))
        checks = [CheckResult(failed, "failed", 0.1, "so"), CheckResult("int8", "skipped")]
        return [problem.component for problem in build_report(config, environment, checks).blocking]

    assert blocking(NO_BITS, "nf4") == []
    assert blocking(NO_BITS, "nf4", quantization="nf4") == ["bitsandbytes", "nf4"]
    assert blocking(SOUND, "nf4", quantization="int8") == []
    assert blocking(SOUND, "bfloat16") == ["bfloat16"]
    assert blocking(SOUND, "bfloat16", train="full") == []
    assert blocking(SOUND, "bfloat16", device="cpu") == []
    assert blocking(SOUND, "float16") == []
    assert blocking(SOUND, "Triton") == ["Triton"]
    assert blocking(SOUND, "Triton", device="cpu") == []
    assert blocking(SOUND, "TensorBoard") == []
    assert chosen_dtype(Config(dtype="bfloat16"), "cpu") == "bfloat16"


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        ("No module named 'triton'", "pip install triton"),
        ("CUDA out of memory. Tried to allocate", "nvidia-smi shows"),
        ("CUDA error: no kernel image is available", "install torch built for this GPU"),
        ("Failed to find C compiler. Please specify via CC", "sudo apt-get install gcc"),
        ("main.c:5:10: fatal error: Python.h: No such file", "python3-dev"),
        ("[Errno 28] No space left on device", "TMPDIR"),
        ("something else", "the default"),
    ],
)
def test_the_error_names_the_fix(error: str, fix: str) -> None:
    assert fix in fix_for(error, "the default")


@pytest.mark.parametrize(
    ("response", "fields"),
    [
        (None, {}),
        (
            (0, "| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4   |"),
            {"driver": "550.54.15", "driver_cuda": "12.4"},
        ),
        (
            (0, "| NVIDIA-SMI 595.10  KMD Version: 595.10  CUDA UMD Version: 13.2 |"),
            {"driver": "595.10", "driver_cuda": "13.2"},
        ),
        ((0, "changed again"), {"driver": "", "driver_cuda": ""}),
        ((18, "Failed to initialize NVML\nmore"), {"driver_error": "Failed to initialize NVML"}),
        ((9, ""), {"driver_error": "exit code 9"}),
    ],
)
def test_nvidia_smi_is_read(response: tuple[int, str] | None, fields: dict[str, str]) -> None:
    assert driver_facts(response) == fields


def cuda_torch(available: bool, init: Callable[[], None]) -> Any:
    """A torch built for CUDA 12.6, with driver CUDA 12.4."""
    card = SimpleNamespace(name="L4", major=8, minor=9)
    return SimpleNamespace(
        version=SimpleNamespace(cuda="12.6"),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False)),
        _C=SimpleNamespace(_cuda_getDriverVersion=lambda: 12040),
        cuda=SimpleNamespace(
            is_available=lambda: available,
            init=init,
            device_count=lambda: 2,
            get_device_properties=lambda n: card,
            get_arch_list=lambda: ["sm_80"],
        ),
    )


def test_gpus_are_read_from_torch() -> None:
    environment = Environment(**torch_facts(cuda_torch(True, lambda: None)))
    cards = (Device("cuda:0", "L4", "sm_89"), Device("cuda:1", "L4", "sm_89"))
    assert environment.devices[1:] == cards
    assert (environment.torch_cuda, environment.driver_cuda, environment.torch_archs) == (
        "12.6",
        "12.4",
        ("sm_80",),
    )
    assert environment.has("cuda") and environment.has("cpu") and not environment.has("mps")


def test_the_reason_for_a_missing_gpu_is_read_from_torch() -> None:
    def init() -> None:
        raise RuntimeError("\nThe driver is too old\nmore")

    environment = Environment(**torch_facts(cuda_torch(False, init)))
    assert environment.gpu_error == "The driver is too old"
    assert not environment.has("cuda") and environment.has("cpu")


@pytest.mark.parametrize(
    ("shard", "processes", "blocks"), [(False, 1, None), (False, 2, False), (True, 2, True)]
)
def test_processes_that_share_a_gpu_are_noticed_and_cannot_shard(
    shard: bool, processes: int, blocks: bool | None
) -> None:
    config = Config(parallel=ParallelConfig(processes=processes, shard=shard))
    report = build_report(config, SOUND, [])
    assert [(x.description, x.fix) for x in report.problems] == [
        ("2 processes share 1 GPU", "set parallel.processes=1")
    ] * (blocks is not None)
    assert bool(report.blocking) == bool(blocks)


def test_processes_that_cannot_sum_stop_a_run_on_several() -> None:
    failed = [CheckResult("several processes", "failed", 1.0, "they end with {1: 1}")]
    several = Config(parallel=ParallelConfig(processes=2))
    (problem,) = build_report(several, NO_GPU, failed).blocking
    assert "NCCL_DEBUG=INFO" in problem.fix
    assert not build_report(Config(), NO_GPU, failed).blocking
