"""The state of every global random generator, for a checkpoint.

The package itself draws from generators keyed by seed and step; what a person's scorer draws from
the global ones continues too.
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """States of torch's generators, of the CPU and each GPU; Python's and numpy's as JSON."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states = torch.cuda.get_rng_state_all()
        tensors |= {f"cuda:{number}": state for number, state in enumerate(states)}
    numbers = dict(np.random.get_state(legacy=False))  # noqa: NPY002 the global one
    inner = dict(numbers["state"])
    numbers["state"] = {**inner, "key": inner["key"].tolist()}
    return tensors, {"python": random.getstate(), "numpy": numbers}


def restore_random_state(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Undo `random_state`; a GPU that is not here is left out."""
    torch.set_rng_state(tensors["cpu"])
    for number in range(torch.cuda.device_count()):
        if (state := tensors.get(f"cuda:{number}")) is not None:
            torch.cuda.set_rng_state(state, number)
    version, internal, gauss = values["python"]
    random.setstate((version, tuple(internal), gauss))
    numbers = values["numpy"]
    inner = {**numbers["state"], "key": np.asarray(numbers["state"]["key"], dtype=np.uint32)}
    np.random.set_state({**numbers, "state": inner})  # noqa: NPY002
