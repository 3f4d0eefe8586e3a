"""The device of this machine that a run uses."""

import torch

from rlhf.errors import UsageError


def find_torch_device(name: str) -> torch.device:
    """Return the device of that name; `auto`: the fastest kind that is here.

    Args:
        name: auto, cuda, mps or cpu.

    Raises:
        UsageError: it is not here.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    here = [kind for kind, found in (("cuda", cuda), ("mps", mps), ("cpu", True)) if found]
    if name not in (*here, "auto"):
        fix = f"set device={here[0]}, or see what is missing: rlhf doctor device={name}"
        raise UsageError(f"there is no {name} device that torch can use", f"device={name}", fix)
    return torch.device(here[0] if name == "auto" else name)
