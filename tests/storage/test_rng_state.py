"""The state of every global random generator, through JSON and back."""

import json
import random

import numpy as np
import torch

from rlhf.storage.rng_state import random_state, restore_random_state


def drawn() -> list[float]:
    return [random.random(), float(np.random.normal()), float(torch.randn(()))]  # noqa: NPY002


def test_each_generator_continues_where_it_was() -> None:
    np.random.normal()  # noqa: NPY002 leaves half of a pair behind, which is state as well
    tensors, values = random_state()
    first = drawn()
    assert drawn() != first
    restore_random_state(tensors, json.loads(json.dumps(values)))
    assert drawn() == first
