"""Memory, arithmetic and bandwidth of common GPUs, from their data sheets."""

from dataclasses import dataclass, replace

import torch

from rlhf.config.schema import GIB
from rlhf.errors import UsageError

# Share of the nominal memory that a program can use: error correction takes 1/16 of GDDR memory.
USABLE_SHARE = 15 / 16


@dataclass(frozen=True)
class GPU:
    """A GPU's memory and peak rates; a rate of 0 is not known.

    Attributes:
        name: its name in `GPUS` or by its driver.
        gib: memory that a program can use, GiB.
        bfloat16_tflops: dense bfloat16 operations on matrix units, 10¹² a second.
        float32_tflops: float32 operations without matrix units (torch's default), 10¹² a second.
        bandwidth_tbs: memory bandwidth, 10¹² bytes a second.
    """

    name: str
    gib: float
    bfloat16_tflops: float
    float32_tflops: float
    bandwidth_tbs: float


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
    name: GPU(name, nominal * USABLE_SHARE, *speeds)
    for name, (nominal, *speeds) in _PUBLISHED.items()
}
"""GPUs by name, smallest first.

Source: NVIDIA's data sheets of T4, L4, A10, A40, L40S, A100 (SXM), H100 (SXM) and H200 (SXM), its
GA102 and Ada GPU architecture white papers. Rates are without sparsity; those of RTX cards
accumulate in float32.
"""


def find_gpu(name: str) -> GPU:
    """Find a GPU by name, ignoring case, hyphens and a leading "NVIDIA".

    Raises:
        UsageError: the name is not in the table.
    """
    wanted = _normalized_name(name)
    for known, gpu in GPUS.items():
        if _normalized_name(known) == wanted:
            return gpu
    raise UsageError(f"no GPU named {name}", "plan.gpu", f"choose one of {', '.join(GPUS)}")


def select_gpus(name: str) -> list[GPU]:
    """The GPU of that name; if it is empty, this machine's; if it has none, all in the table.

    Raises:
        UsageError: the name is not in the table.
    """
    if name:
        return [find_gpu(name)]
    gpu = local_gpu()
    return [gpu] if gpu else list(GPUS.values())


def local_gpu() -> GPU | None:
    """The first CUDA GPU of this machine, with its real memory; None without one."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return match_gpu(properties.name, properties.total_memory / GIB)


def match_gpu(name: str, gib: float) -> GPU:
    """A GPU with the rates of its model in the table, 0 if the table lacks it.

    Args:
        name: the name its driver reports, e.g. "NVIDIA A100-SXM4-80GB".
        gib: its memory, GiB.
    """
    words = {*_normalized_name(name).split()}
    unknown = GPU(name, gib, 0, 0, 0)
    model = next(
        (x for x in GPUS.values() if {*_normalized_name(x.name).split()} <= words), unknown
    )
    return replace(model, name=name, gib=gib)


def _normalized_name(name: str) -> str:
    return " ".join(name.lower().replace("-", " ").removeprefix("nvidia ").split())
