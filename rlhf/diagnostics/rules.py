"""What is wrong with a machine, by its facts alone, and the command that mends it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from rlhf.config.schema import Config
from rlhf.diagnostics.facts import Facts

LEAST_DISK = 10**9  # bytes: an adapter with its optimizer, twice
LEAST_DRIVER = {11: 450, 12: 525, 13: 580}  # NVIDIA, CUDA compatibility: by major CUDA version
BUILDS = (12, 13)  # major CUDA versions that torch is built for
_REINSTALL = "pip install --force-reinstall"

# What an error says, and what mends it; the first that fits counts.
_MENDING = {
    r"No module named '([\w]+)": r"pip install \1",
    r"out of memory": "nvidia-smi shows which process holds the memory; end it",
    r"no kernel image": "install torch built for this GPU, as pytorch.org/get-started says",
    r"C compiler|gcc": "sudo apt-get install gcc",
    r"Python\.h": "sudo apt-get install python3-dev",
    r"No space left": "free disk space, or set TMPDIR to a folder that has some",
    r"shared object|undefined symbol": f"{_REINSTALL} torch bitsandbytes",
}


@dataclass(frozen=True)
class Finding:
    """One mismatch.

    Attributes:
        part: what it breaks; a run stops on it when `needed` names that part.
        what: the mismatch, one sentence.
        fix: the command that mends it.
    """

    part: str
    what: str
    fix: str


def diagnose(facts: Facts, config: Config) -> list[Finding]:
    """Every mismatch, the deepest first: libraries, versions, GPU, bitsandbytes, Triton, disk."""
    return [
        *_imports(facts),
        *_versions(facts),
        *_devices(facts, config.device),
        *_bitsandbytes(facts),
        *_triton(facts),
        *_disk(facts, config.output_dir),
    ]


def mending(error: str, default: str) -> str:
    """The command that mends what an error speaks of."""
    for pattern, fix in _MENDING.items():
        if found := re.search(pattern, error):
            return found.expand(fix) if "\\1" in fix else fix
    return default


def _imports(facts: Facts) -> Iterator[Finding]:
    """Modules that do not load; those above torch load no more when torch does not."""
    faults = dict(facts.faults)
    if "torch" in faults:
        faults = {"torch": faults["torch"]}
    for module, fault in faults.items():
        package = "torch" if module == "torch" else "transformers peft bitsandbytes tensorboard"
        fix = mending(fault, f"{_REINSTALL} {package}")
        yield Finding("libraries", f"{module} does not load: {fault}", fix)


def _versions(facts: Facts) -> Iterator[Finding]:
    """Installed versions outside the ranges that the packages themselves state."""
    for package, texts in facts.requirements.items():
        for requirement in map(Requirement, texts):
            found = facts.versions.get(canonicalize_name(requirement.name))
            if not found or not requirement.specifier.contains(found, prereleases=True):
                is_there = f"{found} is installed" if found else "it is not installed"
                what = f"{package} asks for {requirement}, and {is_there}"
                yield Finding("versions", what, f'pip install "{requirement}"')


def _devices(facts: Facts, asked: str) -> Iterator[Finding]:
    """Why a GPU is not found, and a GPU that torch was not built for."""
    if "torch" in facts.faults:
        return
    if asked != "auto" and not facts.has(asked):
        reason = _missing_gpu(facts) if asked == "cuda" else None
        what, fix = reason or _nothing_there(facts, asked)
        yield Finding("device", f"device={asked} is asked for: {what}", fix)
    elif not facts.has("cuda") and (reason := _missing_gpu(facts)):
        yield Finding("GPU", *reason)
    for device in facts.devices:
        if device.arch and facts.torch_archs and not _built_for(device.arch, facts.torch_archs):
            built = " ".join(facts.torch_archs)
            what = f"{device.model} is {device.arch}, and torch is built for {built}"
            used = device.name == "cuda:0" and asked != "cpu"
            yield Finding("device" if used else "GPU", what, _torch_for_gpu(device.arch, facts))


def _missing_gpu(facts: Facts) -> tuple[str, str] | None:
    """Why torch misses an NVIDIA GPU, and the fix; None if nothing says that there is one."""
    if facts.driver_fault:
        fix = "sudo reboot; if nvidia-smi still fails, install the driver again"
        return f"nvidia-smi fails: {facts.driver_fault}", fix
    if not (facts.driver or facts.driver_cuda):
        return None
    served = f"driver {facts.driver or '?'} (CUDA {facts.driver_cuda or '?'})"
    major = _major(facts.driver_cuda)
    if not facts.torch_cuda:
        what = f"torch {facts.versions.get('torch', '')} is built without CUDA, beside NVIDIA"
        return f"{what} {served}", _torch_for(major)
    if facts.visible in ("", "-1"):
        what = f"CUDA_VISIBLE_DEVICES={facts.visible!r} hides every GPU"
        return what, "unset CUDA_VISIBLE_DEVICES"
    if facts.driver_cuda and Version(facts.driver_cuda) < Version(facts.torch_cuda):
        least = LEAST_DRIVER.get(_major(facts.torch_cuda), "the newest")
        what = f"{served} is older than torch's CUDA {facts.torch_cuda}"
        return what, f"update the driver to {least} or later, or {_torch_for(major)}"
    what = f"torch finds no GPU beside {served}: {facts.gpu_fault or 'it does not say why'}"
    return what, f"nvidia-smi -L; if it lists a GPU: {_REINSTALL} torch; else: sudo reboot"


def _nothing_there(facts: Facts, asked: str) -> tuple[str, str]:
    """What to say of a device that nothing else speaks of."""
    if asked != "cuda":
        return "torch finds none", "set device=auto"
    build = (
        f"torch is built for CUDA {facts.torch_cuda}" if facts.torch_cuda else "torch has no CUDA"
    )
    reason = f"{facts.gpu_fault}, {build}" if facts.gpu_fault else f"there is no driver, {build}"
    return reason, "set device=auto, or install an NVIDIA driver until nvidia-smi lists the GPU"


def _bitsandbytes(facts: Facts) -> Iterator[Finding]:
    """A native library that did not load, or is not for the GPU."""
    if "rlhf.models.quantization" in facts.faults or not (facts.bits_library or facts.bits_fault):
        return
    version = f"bitsandbytes {facts.versions.get('bitsandbytes', '')}".strip()
    default = f"{_REINSTALL} bitsandbytes"
    if not facts.has("cuda"):
        if not facts.bits_library:
            what = f"{version} loaded no native library and is slow: {facts.bits_fault}"
            yield Finding("speed", what, default)
    elif not re.search("cuda|rocm", facts.bits_library):
        fault = facts.bits_fault or f"it loaded {facts.bits_library}"
        what = f"{version} has no library for CUDA {facts.torch_cuda}: {fault}"
        if facts.bits_override:
            what = f"BNB_CUDA_VERSION={facts.bits_override} names a library that fails: {fault}"
            default = "unset BNB_CUDA_VERSION"
        elif facts.bits_shipped and facts.torch_cuda not in facts.bits_shipped:
            what = f"{what} (it has {' '.join(facts.bits_shipped)})"
            default = "pip install --upgrade bitsandbytes"
        yield Finding("bitsandbytes", what, mending(fault, default))


def _triton(facts: Facts) -> Iterator[Finding]:
    if facts.has("cuda") and facts.versions and "triton" not in facts.versions:
        pinned = [r for r in facts.requirements.get("torch", ()) if r.startswith("triton")]
        what = "triton is not installed: the kernels are the PyTorch reference, which is slower"
        yield Finding("speed", what, f'pip install "{[*pinned, "triton"][0]}"')


def _disk(facts: Facts, directory: str) -> Iterator[Finding]:
    if facts.disk_free is not None and facts.disk_free < LEAST_DISK:
        what = f"{facts.disk_free / 1e9:.2f} GB of disk are left for output_dir={directory}"
        yield Finding("disk", what, "free 1 GB, or set output_dir=FOLDER on another disk")


def _torch_for(major: int) -> str:
    """How to install torch for a major CUDA version; for an older one, update the driver too."""
    fix = "install torch built for CUDA {}, as pytorch.org/get-started says"
    if major and major < min(BUILDS):
        return f"update the driver to {LEAST_DRIVER[12]} or later, then {fix.format(min(BUILDS))}"
    return fix.format(min(major, max(BUILDS)) or min(BUILDS))


def _torch_for_gpu(arch: str, facts: Facts) -> str:
    """How to install torch for a GPU; CUDA 13 has dropped those before `sm_75`."""
    if _number(arch) < 75:
        return _torch_for(12)
    new = _major(facts.driver_cuda) >= 13
    return ("" if new else f"update the driver to {LEAST_DRIVER[13]} or later, then ") + _torch_for(
        13
    )


def _major(cuda: str) -> int:
    return int(cuda.partition(".")[0]) if cuda else 0


def _number(arch: str) -> int:
    """86 of `sm_86`, 90 of `sm_90a`."""
    found = re.search(r"\d+", arch)
    return int(found[0]) if found else 0


def _built_for(arch: str, built: Sequence[str]) -> bool:
    """Whether code for one of `built` runs on `arch`: same generation, or compiled on the spot."""
    number = _number(arch)
    return any(
        (name.startswith("compute") and _number(name) <= number)
        or (_number(name) // 10 == number // 10 and _number(name) <= number)
        for name in built
    )
