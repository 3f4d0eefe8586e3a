"""What `rlhf doctor` finds: versions, driver, devices, libraries, memory, disk. Nothing is judged.

Libraries load inside the functions: a doctor that cannot start names no mismatch.
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

ASKED = ("rlhf", "torch", "transformers", "peft", "bitsandbytes")  # whose requirements are checked
MODULES = (
    "torch",
    "rlhf.models.quantization",
    "rlhf.tracking.writer",
)  # with all that a training command loads


@dataclass(frozen=True)
class Device:
    """A device that torch finds.

    Attributes:
        name: as torch calls it, e.g. `cuda:0`.
        model: what the maker calls it.
        arch: of a CUDA device, e.g. `sm_86`.
    """

    name: str
    model: str = ""
    arch: str = ""


@dataclass(frozen=True)
class Facts:
    """One machine, as plain values; empty where there is nothing to tell.

    Attributes:
        python: version of the interpreter.
        versions: installed packages, by canonical name.
        requirements: package to the requirements it states that hold here, extras left out.
        faults: module to why its import failed.
        torch_cuda: CUDA version torch is built for; empty in a CPU build.
        torch_archs: GPU architectures torch is built for, e.g. `sm_86`.
        gpu_fault: why torch cannot use its GPU.
        driver: version of the NVIDIA driver.
        driver_cuda: newest CUDA version that the driver serves; without nvidia-smi, torch's word.
        driver_fault: what nvidia-smi says when it fails.
        visible: CUDA_VISIBLE_DEVICES; None if not set.
        devices: what torch can compute on.
        bits_library: file of bitsandbytes' native library; empty if none loaded.
        bits_fault: why none loaded.
        bits_shipped: CUDA versions bitsandbytes has libraries for.
        bits_override: BNB_CUDA_VERSION.
        memory: device name to bytes (total, free); `cpu` is the machine's own memory.
        disk_free: bytes left where runs are written; None if not looked at.
    """

    python: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    requirements: Mapping[str, Sequence[str]] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    torch_cuda: str = ""
    torch_archs: Sequence[str] = ()
    gpu_fault: str = ""
    driver: str = ""
    driver_cuda: str = ""
    driver_fault: str = ""
    visible: str | None = None
    devices: Sequence[Device] = ()
    bits_library: str = ""
    bits_fault: str = ""
    bits_shipped: Sequence[str] = ()
    bits_override: str = ""
    memory: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    disk_free: int | None = None

    def has(self, kind: str) -> bool:
        """Whether there is a device of a kind: cpu, cuda or mps."""
        return any(device.name.partition(":")[0] == kind for device in self.devices)


def gather(config: Config) -> Facts:
    """Everything there is to know, in some seconds if no library is loaded yet."""
    libraries = _libraries(MODULES)
    room = {
        "memory": _memory(libraries.get("devices", ())),
        "disk_free": _disk_free(Path(config.output_dir)),
    }
    return Facts(**{**libraries, **driver_facts(_nvidia_smi()), **_packages(), **room})


def gather_quickly(config: Config) -> Facts:
    """What can stop a run with these options: devices and, if it quantizes, bitsandbytes."""
    return Facts(**_libraries(MODULES[:2] if config.model.quantization != "none" else MODULES[:1]))


def driver_facts(response: tuple[int, str] | None) -> dict[str, str]:
    """Driver and its CUDA version from nvidia-smi's exit code and text (None: there is none)."""
    if response is None:
        return {}
    code, text = response
    if code:
        return {"driver_fault": (text.strip().splitlines() or [f"exit code {code}"])[0]}
    driver = re.search(r"(?:Driver|KMD) Version\s*:\s*([\d.]+)", text)
    cuda = re.search(r"CUDA (?:UMD )?Version\s*:\s*([\d.]+)", text)
    return {"driver": driver[1] if driver else "", "driver_cuda": cuda[1] if cuda else ""}


def _libraries(names: Sequence[str]) -> dict[str, Any]:
    """What loads, and what the loaded libraries say of themselves."""
    readers: dict[str, Callable[[Any], dict[str, Any]]] = {
        "torch": torch_facts,
        "rlhf.models.quantization": _bits,
    }
    facts: dict[str, Any] = {"faults": {}}
    for name in names:
        try:
            facts |= readers.get(name, lambda module: {})(import_module(name))
        except Exception as error:  # a broken library may raise anything
            facts["faults"][name] = one_line(error)
    return facts


def torch_facts(torch: Any) -> dict[str, Any]:
    """What the module `torch` says of its build and its devices."""
    devices, fault = [Device("cpu", platform.processor() or platform.machine())], ""
    try:
        devices += _gpus(torch)
    except Exception as error:  # what a driver that does not fit raises differs by torch
        fault = one_line(error)
    return {
        "torch_cuda": torch.version.cuda or "",
        "torch_archs": tuple(torch.cuda.get_arch_list()) if len(devices) > 1 else (),
        "gpu_fault": fault,
        "driver_cuda": _driver_cuda(torch),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "devices": tuple(devices),
    }


def _driver_cuda(torch: Any) -> str:
    """Newest CUDA version of the driver as torch reads it, e.g. `12.4`; empty in a CPU build."""
    number = getattr(torch._C, "_cuda_getDriverVersion", int)()  # 12040
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def _gpus(torch: Any) -> list[Device]:
    if torch.backends.mps.is_available():
        return [Device("mps", "Apple GPU")]
    if not torch.cuda.is_available():
        if torch.version.cuda:
            torch.cuda.init()  # says why
        return []
    found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    archs = [f"sm_{p.major}{p.minor}" if torch.version.cuda else "" for p in found]
    names = [properties.name for properties in found]
    return [Device(f"cuda:{n}", *both) for n, both in enumerate(zip(names, archs, strict=True))]


def _bits(bits: Any) -> dict[str, Any]:
    library = bits.native_library()
    return {
        "bits_library": library.name,
        "bits_fault": library.fault,
        "bits_shipped": library.shipped,
        "bits_override": library.override,
    }


def _packages() -> dict[str, Any]:
    requirements = {name: _requirements(name) for name in ASKED}
    texts = [text for group in requirements.values() for text in group]
    names = {canonicalize_name(Requirement(text).name) for text in texts}
    versions = {name: _version(name) for name in {*names, *ASKED, "triton"}}
    return {
        "python": platform.python_version(),
        "requirements": requirements,
        "versions": {name: found for name, found in sorted(versions.items()) if found},
    }


def _requirements(name: str) -> tuple[str, ...]:
    """What a package asks for on this machine."""
    try:
        asked = [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:
        return ()
    here = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    return tuple(f"{requirement.name}{requirement.specifier}" for requirement in here)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _nvidia_smi() -> tuple[int, str] | None:
    """Exit code and text of nvidia-smi, which comes with the driver; None without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, one_line(error)
    return done.returncode, done.stdout or done.stderr


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
    """Bytes free where `directory` is or will be made."""
    there = next(
        place for place in (directory.resolve(), *directory.resolve().parents) if place.exists()
    )
    return shutil.disk_usage(there).free


def one_line(error: BaseException) -> str:
    """The first words of an error, with its type when it says nothing."""
    return next((x.strip() for x in str(error).splitlines() if x.strip()), type(error).__name__)
