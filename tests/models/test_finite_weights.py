"""Weights that are NaN or infinite are refused by name, from whatever file they come."""

import math
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf.errors import UsageError
from rlhf.models.finite_weights import check_finite
from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY
from rlhf.models.scalar_head import ScalarHead
from tests.support import tiny_models

CPU = torch.device("cpu")
BAD = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_bad_number_is_found_and_named(value: float, dtype: torch.dtype) -> None:
    good, bad = torch.ones(3, 4, dtype=dtype), torch.ones(3, 4, dtype=dtype)
    bad[1, 2] = value
    check_finite([("a", good), ("codes", torch.zeros(2, dtype=torch.uint8))], "file")
    with pytest.raises(UsageError, match="1 of 12 weights of b are") as error:
        check_finite([("a", good), ("b", bad)], "file")
    assert error.value.where == "file"


def test_large_numbers_whose_sum_overflows_are_weights() -> None:
    check_finite([("float32", torch.full((4,), 3e38)), ("half", torch.full((9,), 6e4).half())], "")


def spoil(file: Path, value: float) -> str:
    """Set one number of the last tensor of a file; return the tensor's name."""
    tensors = load_file(file)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] = value
    save_file(tensors, file, {"format": "pt"})
    return name


@pytest.mark.parametrize("value", BAD)
def test_a_model_an_adapter_and_a_head_are_looked_at(
    tiny: Path, tmp_path: Path, value: float
) -> None:
    llava = tiny_models.load(tiny)
    llava.adapters.add(POLICY, rank=2, alpha=4)
    llava.adapters.save(POLICY, tmp_path / "adapter", llava.base)
    ScalarHead(4).save(tmp_path / "head.safetensors")
    copytree(tiny / "model", tmp_path / "model")
    spoil(tmp_path / "adapter" / "adapter_model.safetensors", value)
    spoil(tmp_path / "head.safetensors", value)
    spoil(tmp_path / "model" / "model.safetensors", value)
    with pytest.raises(UsageError, match="NaN or infinite"):
        tiny_models.load(tiny).adapters.load(POLICY, tmp_path / "adapter", trains=False)
    with pytest.raises(UsageError, match="weights of linear.weight are NaN or infinite"):
        ScalarHead.load(tmp_path / "head.safetensors", CPU)
    with pytest.raises(UsageError, match="NaN or infinite") as error:
        Llava.load(str(tmp_path / "model"), device=CPU, dtype=torch.float32)
    assert str(tmp_path / "model") in error.value.where
