"""Find problems in an `Environment`, each with the command that fixes it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from rlhf.config.schema import Config
from rlhf.diagnostics.environment import QUANTIZATION, Environment

PROCESSES = "several processes"
MIN_DISK = 10**9  # bytes: an adapter with its optimizer, twice
MIN_DRIVER = {11: 450, 12: 525, 13: 580}  # NVIDIA, CUDA compatibility: by major CUDA version
TORCH_CUDA_MAJORS = (12, 13)  # major CUDA versions that torch is built for
_REINSTALL = "pip install --force-reinstall"

# Pattern of an error to its fix; the first match counts.
_FIXES = {
    r"No module named '([\w]+)": r"pip install \1",
    r"out of memory": "nvidia-smi shows which process holds the memory; end it",
    r"no kernel image": "install torch built for this GPU, as pytorch.org/get-started says",
    r"C compiler|gcc": "sudo apt-get install gcc",
    r"Python\.h": "sudo apt-get install python3-dev",
    r"No space left": "free disk space, or set TMPDIR to a directory with free space",
    r"shared object|undefined symbol": f"{_REINSTALL} torch bitsandbytes",
}


@dataclass(frozen=True)
class Problem:
    """Something that does not fit together on this machine.

    Attributes:
        component: what it breaks; a run that needs this component cannot start.
        description: one sentence.
        fix: the command that fixes it.
    """

    component: str
    description: str
    fix: str


def find_problems(environment: Environment, config: Config) -> list[Problem]:
    """Find all problems, in the order imports, versions, GPU, bitsandbytes, Triton, disk."""
    return [
        *_imports(environment),
        *_versions(environment),
        *_devices(environment, config.device),
        *_processes(environment, config),
        *_bitsandbytes(environment),
        *_triton(environment),
        *_disk(environment, config.output_dir),
    ]


def fix_for(error: str, default: str) -> str:
    """Return the command that fixes an error, by its text; `default` for an unknown one."""
    for pattern, fix in _FIXES.items():
        if match := re.search(pattern, error):
            return match.expand(fix) if "\\1" in fix else fix
    return default


def _imports(environment: Environment) -> Iterator[Problem]:
    """Modules that cannot be imported; only torch if that is one, as the others import it."""
    errors = dict(environment.import_errors)
    if "torch" in errors:
        errors = {"torch": errors["torch"]}
    for module, error in errors.items():
        package = "torch" if module == "torch" else "transformers peft bitsandbytes tensorboard"
        fix = fix_for(error, f"{_REINSTALL} {package}")
        yield Problem("libraries", f"{module} does not load: {error}", fix)


def _versions(environment: Environment) -> Iterator[Problem]:
    """Installed versions outside the ranges that the packages require."""
    for package, texts in environment.requirements.items():
        for requirement in map(Requirement, texts):
            version = environment.versions.get(canonicalize_name(requirement.name))
            if not version or not requirement.specifier.contains(version, prereleases=True):
                state = f"{version} is installed" if version else "it is not installed"
                what = f"{package} asks for {requirement}, and {state}"
                yield Problem("versions", what, f'pip install "{requirement}"')


def _devices(environment: Environment, requested: str) -> Iterator[Problem]:
    """A GPU that torch does not find or was not built for."""
    if "torch" in environment.import_errors:
        return
    if requested != "auto" and not environment.has(requested):
        reason = _missing_gpu(environment) if requested == "cuda" else None
        what, fix = reason or _missing_device(environment, requested)
        yield Problem("device", f"device={requested} is asked for: {what}", fix)
    elif not environment.has("cuda") and (reason := _missing_gpu(environment)):
        yield Problem("GPU", *reason)
    for device in environment.devices:
        if (
            device.arch
            and environment.torch_archs
            and not _built_for(device.arch, environment.torch_archs)
        ):
            built = " ".join(environment.torch_archs)
            what = f"{device.model} is {device.arch}, and torch is built for {built}"
            used = device.name == "cuda:0" and requested != "cpu"
            yield Problem(
                "device" if used else "GPU", what, _torch_for_gpu(device.arch, environment)
            )


def _processes(environment: Environment, config: Config) -> Iterator[Problem]:
    """More processes than GPUs; shards are exchanged between GPUs only."""
    processes, gpus = config.parallel.processes, environment.num_gpus
    if gpus and processes > gpus and config.device in ("auto", "cuda"):
        what = f"{processes} processes share {gpus} GPU{'s' if gpus > 1 else ''}"
        component = PROCESSES if config.parallel.shard else "speed"
        yield Problem(component, what, f"set parallel.processes={gpus}")


def _missing_gpu(environment: Environment) -> tuple[str, str] | None:
    """Why torch finds no NVIDIA GPU, and the fix; None if there is no sign of one."""
    if environment.driver_error:
        fix = "sudo reboot; if nvidia-smi still fails, install the driver again"
        return f"nvidia-smi fails: {environment.driver_error}", fix
    if not (environment.driver or environment.driver_cuda):
        return None
    driver = f"driver {environment.driver or '?'} (CUDA {environment.driver_cuda or '?'})"
    major = _major(environment.driver_cuda)
    if not environment.torch_cuda:
        what = f"torch {environment.versions.get('torch', '')} is built without CUDA, beside NVIDIA"
        return f"{what} {driver}", _torch_for(major)
    if environment.cuda_visible_devices in ("", "-1"):
        what = f"CUDA_VISIBLE_DEVICES={environment.cuda_visible_devices!r} hides every GPU"
        return what, "unset CUDA_VISIBLE_DEVICES"
    if environment.driver_cuda and Version(environment.driver_cuda) < Version(
        environment.torch_cuda
    ):
        minimum = MIN_DRIVER.get(_major(environment.torch_cuda), "the newest")
        what = f"{driver} is older than torch's CUDA {environment.torch_cuda}"
        return what, f"update the driver to {minimum} or later, or {_torch_for(major)}"
    what = f"torch finds no GPU beside {driver}: {environment.gpu_error or 'it does not say why'}"
    return what, f"nvidia-smi -L; if it lists a GPU: {_REINSTALL} torch; else: sudo reboot"


def _missing_device(environment: Environment, requested: str) -> tuple[str, str]:
    """Description and fix for a requested device that is absent without a known cause."""
    if requested != "cuda":
        return "torch finds none", "set device=auto"
    build = (
        f"torch is built for CUDA {environment.torch_cuda}"
        if environment.torch_cuda
        else "torch has no CUDA"
    )
    reason = (
        f"{environment.gpu_error}, {build}"
        if environment.gpu_error
        else f"there is no driver, {build}"
    )
    return reason, "set device=auto, or install an NVIDIA driver until nvidia-smi lists the GPU"


def _bitsandbytes(environment: Environment) -> Iterator[Problem]:
    """A native library of bitsandbytes that did not load or does not support the GPU."""
    if QUANTIZATION in environment.import_errors or not (
        environment.bnb_library or environment.bnb_error
    ):
        return
    version = f"bitsandbytes {environment.versions.get('bitsandbytes', '')}".strip()
    default = f"{_REINSTALL} bitsandbytes"
    if not environment.has("cuda"):
        if not environment.bnb_library:
            what = f"{version} loaded no native library and is slow: {environment.bnb_error}"
            yield Problem("speed", what, default)
    elif not re.search("cuda|rocm", environment.bnb_library):
        fault = environment.bnb_error or f"it loaded {environment.bnb_library}"
        what = f"{version} has no library for CUDA {environment.torch_cuda}: {fault}"
        if environment.bnb_cuda_override:
            override = f"BNB_CUDA_VERSION={environment.bnb_cuda_override}"
            what = f"{override} names a library that fails: {fault}"
            default = "unset BNB_CUDA_VERSION"
        elif (
            environment.bnb_cuda_versions
            and environment.torch_cuda not in environment.bnb_cuda_versions
        ):
            what = f"{what} (it has {' '.join(environment.bnb_cuda_versions)})"
            default = "pip install --upgrade bitsandbytes"
        yield Problem("bitsandbytes", what, fix_for(fault, default))


def _triton(environment: Environment) -> Iterator[Problem]:
    if environment.has("cuda") and environment.versions and "triton" not in environment.versions:
        pinned = [r for r in environment.requirements.get("torch", ()) if r.startswith("triton")]
        what = "triton is not installed: the kernels are the PyTorch reference, which is slower"
        yield Problem("speed", what, f'pip install "{[*pinned, "triton"][0]}"')


def _disk(environment: Environment, directory: str) -> Iterator[Problem]:
    if environment.disk_free is not None and environment.disk_free < MIN_DISK:
        what = f"{environment.disk_free / 1e9:.2f} GB of disk are left for output_dir={directory}"
        yield Problem("disk", what, "free 1 GB, or set output_dir=DIRECTORY on another disk")


def _torch_for(major: int) -> str:
    """Fix: install torch for a major CUDA version, after a driver update if it is too old."""
    fix = "install torch built for CUDA {}, as pytorch.org/get-started says"
    oldest, newest = min(TORCH_CUDA_MAJORS), max(TORCH_CUDA_MAJORS)
    if major and major < oldest:
        return f"update the driver to {MIN_DRIVER[oldest]} or later, then {fix.format(oldest)}"
    return fix.format(min(major, newest) or oldest)


def _torch_for_gpu(arch: str, environment: Environment) -> str:
    """Fix: install torch for a GPU; CUDA 13 no longer supports those before `sm_75`."""
    if _arch_number(arch) < 75:
        return _torch_for(12)
    new = _major(environment.driver_cuda) >= 13
    return ("" if new else f"update the driver to {MIN_DRIVER[13]} or later, then ") + _torch_for(
        13
    )


def _major(cuda: str) -> int:
    return int(cuda.partition(".")[0]) if cuda else 0


def _arch_number(arch: str) -> int:
    """Return 86 for `sm_86`, 90 for `sm_90a`."""
    digits = re.search(r"\d+", arch)
    return int(digits[0]) if digits else 0


def _built_for(arch: str, built: Sequence[str]) -> bool:
    """Whether code for one of `built` runs on `arch`: same generation, or compiled at run time."""
    number = _arch_number(arch)
    return any(
        (name.startswith("compute") and _arch_number(name) <= number)
        or (_arch_number(name) // 10 == number // 10 and _arch_number(name) <= number)
        for name in built
    )
