"""Read the environment: package versions, GPU driver, devices, libraries, memory, disk.

Libraries are imported inside the functions, so that a broken one is reported instead of stopping
`rlhf doctor`. For that reason `torch.utils.collect_env` cannot serve here: it needs a torch that
imports.
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rlhf.config.schema import Config

CHECKED_PACKAGES = (
    "rlhf-llava",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
)  # whose stated requirements are checked
QUANTIZATION, METRICS_WRITER = "rlhf.models.quantization", "rlhf.tracking.writer"
MODULES = ("torch", QUANTIZATION, METRICS_WRITER)  # they import all that a training command needs


@dataclass(frozen=True)
class Device:
    """A device that torch can compute on.

    Attributes:
        name: torch's name, e.g. `cuda:0`.
        model: the maker's name.
        arch: compute capability of a CUDA device, e.g. `sm_86`.
    """

    name: str
    model: str = ""
    arch: str = ""


@dataclass(frozen=True)
class Environment:
    """What is installed and present on one machine; a value is empty if there is none.

    Attributes:
        python: version of the interpreter.
        versions: canonical package name to installed version.
        requirements: package to the requirements it states for this platform, without extras.
        import_errors: module to the error of its import.
        torch_cuda: CUDA version that torch is built for; empty in a CPU build.
        torch_archs: GPU architectures that torch is built for, e.g. `sm_86`.
        gpu_error: why torch cannot use its GPU.
        driver: version of the NVIDIA driver.
        driver_cuda: newest CUDA version that the driver supports, by nvidia-smi or else by torch.
        driver_error: what nvidia-smi says when it fails.
        cuda_visible_devices: CUDA_VISIBLE_DEVICES; None if not set.
        devices: what torch can compute on.
        bnb_library: file of bitsandbytes' native library; empty if none loaded.
        bnb_error: why none loaded.
        bnb_cuda_versions: CUDA versions that bitsandbytes ships libraries for.
        bnb_cuda_override: value of BNB_CUDA_VERSION.
        memory: device name to bytes (total, free); `cpu` is the machine's own memory.
        disk_free: free bytes where runs are written; None if not read.
    """

    python: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    requirements: Mapping[str, Sequence[str]] = field(default_factory=dict)
    import_errors: Mapping[str, str] = field(default_factory=dict)
    torch_cuda: str = ""
    torch_archs: Sequence[str] = ()
    gpu_error: str = ""
    driver: str = ""
    driver_cuda: str = ""
    driver_error: str = ""
    cuda_visible_devices: str | None = None
    devices: Sequence[Device] = ()
    bnb_library: str = ""
    bnb_error: str = ""
    bnb_cuda_versions: Sequence[str] = ()
    bnb_cuda_override: str = ""
    memory: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    disk_free: int | None = None

    @property
    def num_gpus(self) -> int:
        """Number of CUDA devices."""
        return sum(device.name.startswith("cuda") for device in self.devices)

    def has(self, kind: str) -> bool:
        """Whether there is a device of a kind: `cpu`, `cuda` or `mps`."""
        return any(device.name.partition(":")[0] == kind for device in self.devices)


def read_environment(config: Config) -> Environment:
    """Read everything; takes seconds if the libraries are not imported yet."""
    libraries = _library_facts(MODULES)
    space = {
        "memory": _memory(libraries.get("devices", ())),
        "disk_free": _disk_free(Path(config.output_dir)),
    }
    return Environment(**{**libraries, **driver_facts(_nvidia_smi()), **_package_facts(), **space})


def read_devices(config: Config) -> Environment:
    """Read only the devices and, if the run quantizes, bitsandbytes."""
    return Environment(
        **_library_facts(MODULES[:2] if config.model.quantization != "none" else MODULES[:1])
    )


def driver_facts(response: tuple[int, str] | None) -> dict[str, str]:
    """Parse nvidia-smi's exit code and text; None means it is not installed.

    Returns:
        Values of `driver`, `driver_cuda` and `driver_error` of `Environment`.
    """
    if response is None:
        return {}
    code, text = response
    if code:
        return {"driver_error": (text.strip().splitlines() or [f"exit code {code}"])[0]}
    driver = re.search(r"(?:Driver|KMD) Version\s*:\s*([\d.]+)", text)
    cuda = re.search(r"CUDA (?:UMD )?Version\s*:\s*([\d.]+)", text)
    return {"driver": driver[1] if driver else "", "driver_cuda": cuda[1] if cuda else ""}


def _library_facts(names: Sequence[str]) -> dict[str, Any]:
    """Import modules, read torch and bitsandbytes, and note the errors of failed imports."""
    readers: dict[str, Callable[[Any], dict[str, Any]]] = {
        "torch": torch_facts,
        QUANTIZATION: _bitsandbytes_facts,
    }
    facts: dict[str, Any] = {"import_errors": {}}
    for name in names:
        try:
            facts |= readers.get(name, lambda module: {})(import_module(name))
        except Exception as error:  # a broken library may raise anything
            facts["import_errors"][name] = one_line(error)
    return facts


def torch_facts(torch: Any) -> dict[str, Any]:
    """Read the build and the devices of the module `torch`, as fields of `Environment`."""
    devices, fault = [Device("cpu", platform.processor() or platform.machine())], ""
    try:
        devices += _gpus(torch)
    except Exception as error:  # what a driver that does not fit raises differs by torch
        fault = one_line(error)
    return {
        "torch_cuda": torch.version.cuda or "",
        "torch_archs": tuple(torch.cuda.get_arch_list()) if len(devices) > 1 else (),
        "gpu_error": fault,
        "driver_cuda": _driver_cuda(torch),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "devices": tuple(devices),
    }


def _driver_cuda(torch: Any) -> str:
    """Newest CUDA version that the driver supports by torch, e.g. `12.4`; empty in a CPU build."""
    number = getattr(torch._C, "_cuda_getDriverVersion", int)()  # 12040
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def _gpus(torch: Any) -> list[Device]:
    if torch.backends.mps.is_available():
        return [Device("mps", "Apple GPU")]
    if not torch.cuda.is_available():
        if torch.version.cuda:
            torch.cuda.init()  # says why
        return []
    gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    archs = [f"sm_{gpu.major}{gpu.minor}" if torch.version.cuda else "" for gpu in gpus]
    names = [gpu.name for gpu in gpus]
    return [
        Device(f"cuda:{n}", *model_and_arch)
        for n, model_and_arch in enumerate(zip(names, archs, strict=True))
    ]


def _bitsandbytes_facts(bits: Any) -> dict[str, Any]:
    library = bits.native_library()
    return {
        "bnb_library": library.name,
        "bnb_error": library.fault,
        "bnb_cuda_versions": library.shipped,
        "bnb_cuda_override": library.override,
    }


def _package_facts() -> dict[str, Any]:
    requirements = {name: _requirements(name) for name in CHECKED_PACKAGES}
    texts = [text for group in requirements.values() for text in group]
    names = {canonicalize_name(Requirement(text).name) for text in texts}
    versions = {name: _version(name) for name in {*names, *CHECKED_PACKAGES, "triton"}}
    return {
        "python": platform.python_version(),
        "requirements": requirements,
        "versions": {name: version for name, version in sorted(versions.items()) if version},
    }


def _requirements(name: str) -> tuple[str, ...]:
    """Requirements that a package states for this platform, without extras."""
    try:
        stated = [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:
        return ()
    applicable = [r for r in stated if r.marker is None or r.marker.evaluate({"extra": ""})]
    return tuple(f"{requirement.name}{requirement.specifier}" for requirement in applicable)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _nvidia_smi() -> tuple[int, str] | None:
    """Exit code and text of nvidia-smi, which comes with the driver; None if it is not there."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        completed = subprocess.run([program], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, one_line(error)
    return completed.returncode, completed.stdout or completed.stderr


def _memory(devices: Sequence[Device]) -> dict[str, tuple[int, int]]:
    memory: dict[str, tuple[int, int]] = {}
    with suppress(Exception):  # without psutil the table has one cell less
        machine = import_module("psutil").virtual_memory()
        memory["cpu"] = machine.total, machine.available
    for device in devices:
        if device.name.startswith("cuda"):
            with suppress(Exception):  # the checks meet the same fault and report it
                free, total = import_module("torch").cuda.mem_get_info(device.name)
                memory[device.name] = total, free
    return memory


def _disk_free(directory: Path) -> int | None:
    """Free bytes on the disk of `directory`, which need not exist yet."""
    path = directory.resolve()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    return shutil.disk_usage(existing).free


def one_line(error: BaseException) -> str:
    """The first line of an error's text; its type if it has none."""
    return next((x.strip() for x in str(error).splitlines() if x.strip()), type(error).__name__)
