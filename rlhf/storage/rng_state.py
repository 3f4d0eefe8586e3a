"""Save and restore the state of every global random generator, for a checkpoint.

The package itself draws from generators keyed by seed and step. The global ones are saved for a
user's scorer that draws from them.
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the states of the global generators.

    Returns:
        uint8 states of torch's generators by device (`cpu`, `cuda:0`…); and the states of
        Python's and numpy's generators as JSON.
    """
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states = torch.cuda.get_rng_state_all()
        tensors |= {f"cuda:{number}": state for number, state in enumerate(states)}
    numpy_state = dict(np.random.get_state(legacy=False))  # noqa: NPY002 the global one
    inner = dict(numpy_state["state"])
    numpy_state["state"] = {**inner, "key": inner["key"].tolist()}
    return tensors, {"python": random.getstate(), "numpy": numpy_state}


def restore_random_state(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Set the generators to what `random_state` returned; states of absent GPUs are ignored."""
    torch.set_rng_state(tensors["cpu"])
    for number in range(torch.cuda.device_count()):
        if (state := tensors.get(f"cuda:{number}")) is not None:
            torch.cuda.set_rng_state(state, number)
    version, internal, gauss = values["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = values["numpy"]
    inner = {
        **numpy_state["state"],
        "key": np.asarray(numpy_state["state"]["key"], dtype=np.uint32),
    }
    np.random.set_state({**numpy_state, "state": inner})  # noqa: NPY002
