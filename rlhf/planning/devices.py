"""Memory and peak rates of GPUs and Macs, from their data sheets, and of this machine."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psutil
import torch

from rlhf.config.schema import GIB
from rlhf.errors import UsageError
from rlhf.models.torch_device import find_torch_device

# Share of the nominal memory that a program can use: error correction takes 1/16 of GDDR memory.
USABLE_SHARE = 15 / 16
# Share of a Mac's memory that Metal recommends to keep for its GPU: 11.84 GiB of 16, 17.76 of 24.
MAC_SHARE = 0.74
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container, bytes or "max"

Kind = Literal["cuda", "mps", "cpu"]


@dataclass(frozen=True)
class Device:
    """Memory and peak rates of a GPU, a Mac or a CPU; a rate of 0 is not known.

    Attributes:
        name: its name in `GPUS`, of a Mac its chip and memory, or by its driver.
        gib: memory that a program can use, GiB.
        bfloat16_tflops: dense bfloat16 operations on matrix units, 10¹² a second.
        float32_tflops: float32 operations without matrix units (torch's default), 10¹² a second.
        bandwidth_tbs: memory bandwidth, 10¹² bytes a second.
        kind: of its torch device.
        is_local: it is this machine's, so that unknown rates can be measured.
    """

    name: str
    gib: float
    bfloat16_tflops: float
    float32_tflops: float
    bandwidth_tbs: float
    kind: Kind = "cuda"
    is_local: bool = False

    @property
    def has_rates(self) -> bool:
        """Whether all of its rates are known."""
        return bool(self.bfloat16_tflops and self.float32_tflops and self.bandwidth_tbs)


# name: nominal GB, bfloat16, float32, bandwidth
_PUBLISHED = {
    "T4": (16, 65, 8.1, 0.320),  # float16: it has no bfloat16 units
    "RTX 4060 Ti": (16, 44.1, 22.1, 0.288),
    "RTX 3090": (24, 71, 35.6, 0.936),
    "RTX 4090": (24, 165.2, 82.6, 1.008),
    "L4": (24, 121, 30.3, 0.300),
    "A10": (24, 125, 31.2, 0.600),
    "A40": (48, 149.7, 37.4, 0.696),
    "L40S": (48, 362, 91.6, 0.864),
    "A100 40GB": (40, 312, 19.5, 1.555),
    "A100 80GB": (80, 312, 19.5, 2.039),
    "H100": (80, 989.5, 66.9, 3.35),
    "H200": (141, 989.5, 66.9, 4.8),
}
GPUS = {
    name: Device(name, nominal * USABLE_SHARE, bfloat16, float32, bandwidth)
    for name, (nominal, bfloat16, float32, bandwidth) in _PUBLISHED.items()
}
"""GPUs by name, smallest first.

Source: NVIDIA's data sheets of T4, L4, A10, A40, L40S, A100 (SXM), H100 (SXM) and H200 (SXM), its
GA102 and Ada GPU architecture white papers. Rates are without sparsity; those of RTX cards
accumulate in float32.
"""


# chip: 10¹² float32 operations a second (0: Apple does not publish it), bandwidth
MAC_CHIPS = {
    "M1": (2.6, 0.068),
    "M1 Pro": (5.2, 0.200),
    "M1 Max": (10.4, 0.400),
    "M1 Ultra": (0, 0.800),
    "M2": (3.6, 0.100),
    "M2 Pro": (0, 0.200),
    "M2 Max": (0, 0.400),
    "M2 Ultra": (0, 0.800),
    "M3": (0, 0.100),
    "M3 Pro": (0, 0.150),
    "M3 Max": (0, 0.400),
    "M3 Ultra": (0, 0.819),
    "M4": (0, 0.120),
    "M4 Pro": (0, 0.273),
    "M4 Max": (0, 0.546),
}
"""Chips of Macs, each with most GPU cores.

Source: Apple's newsroom and technical specifications.
"""


def find_device(name: str) -> Device:
    """Find a GPU by name, a Mac by chip and memory (`M2 Max 64GB`), or this machine (`cpu`).

    Case, hyphens and a leading "NVIDIA" or "Apple" do not matter.

    Raises:
        UsageError: there is none of that name.
    """
    wanted = _normalized_name(name)
    if wanted == "cpu":
        return local_cpu()
    for known, gpu in GPUS.items():
        if _normalized_name(known) == wanted:
            return gpu
    if mac := _find_mac(wanted):
        return mac
    fix = f"choose cpu, a Mac such as M2 Max 64GB, or one of {', '.join(GPUS)}"
    raise UsageError(f"no device named {name}", "plan.device", fix)


def _find_mac(wanted: str) -> Device | None:
    """Find a Mac by its normalized name, such as `m2 max 64gb`."""
    found = re.fullmatch(r"(m\d(?: \w+)?) (\d+) ?gi?b", wanted)
    for chip, (tflops, bandwidth) in MAC_CHIPS.items():
        if found and found[1] == chip.lower():
            gib = MAC_SHARE * int(found[2])
            return Device(f"{chip} {found[2]}GB", gib, tflops, tflops, bandwidth, "mps")
    return None


def select_devices(name: str) -> list[Device]:
    """Return the device of that name; if it is empty, this machine's GPU, else CPU and all GPUs.

    Raises:
        UsageError: there is none of that name.
    """
    if name:
        return [find_device(name)]
    device = local_device()
    return [device] if device.kind != "cpu" else [device, *GPUS.values()]


def local_device(name: str = "auto") -> Device:
    """Return the device that a run on this machine uses, a GPU with its real memory.

    Args:
        name: cpu, cuda, mps, or auto; see `find_torch_device`.

    Raises:
        UsageError: it is not here.
    """
    kind = find_torch_device(name).type
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return match_gpu(properties.name, properties.total_memory / GIB)
    if kind == "mps":
        return Device("this Mac", torch.mps.recommended_max_memory() / GIB, 0, 0, 0, "mps", True)
    return local_cpu()


def local_cpu() -> Device:
    """Return this machine's CPU with its memory, in a container with the container's."""
    size = psutil.virtual_memory().total
    if CGROUP_LIMIT.exists() and (limit := CGROUP_LIMIT.read_text().strip()).isdigit():
        size = min(size, int(limit))
    return Device("this CPU", size / GIB, 0, 0, 0, "cpu", True)


def match_gpu(name: str, gib: float) -> Device:
    """A GPU with the rates of its model in the table, 0 if the table lacks it.

    Args:
        name: the name its driver reports, e.g. "NVIDIA A100-SXM4-80GB".
        gib: its memory, GiB.
    """
    words = {*_normalized_name(name).split()}
    unknown = Device(name, gib, 0, 0, 0)
    model = next(
        (x for x in GPUS.values() if {*_normalized_name(x.name).split()} <= words), unknown
    )
    return replace(model, name=name, gib=gib, is_local=True)


def _normalized_name(name: str) -> str:
    words = name.lower().replace("-", " ").removeprefix("nvidia ").removeprefix("apple ")
    return " ".join(words.split())
