"""PPO on a disguised GPU with the kernels in Triton, interpreted."""

from pathlib import Path

import pytest

import tests.support.interpreted_triton  # noqa: F401
from tests.devices.test_ppo import RUNS, check_equal_to_cpu

pytest.importorskip("triton")


def test_triton_trains_the_weights_of_the_cpu(tiny: Path) -> None:
    gpu = check_equal_to_cpu(tiny, "cuda", RUNS["full, k2 in the loss, pairs"], triton=True)
    launched = {"_copy_spans_kernel", "_online_softmax_kernel", "_logits_grad_kernel"}
    assert launched <= {*gpu.operators}
