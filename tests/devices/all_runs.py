"""Every PPO run and every family of LLaVA on every disguised GPU; `make devices` runs them."""

from pathlib import Path

import pytest

import tests.support.interpreted_triton  # noqa: F401
from tests.devices import test_decode_graphs
from tests.devices.test_families import BY_NAME, check_family
from tests.devices.test_ppo import RUNS, check_equal_to_cpu
from tests.support.device_tensor import Kind


@pytest.mark.parametrize("name", RUNS)
def test_ppo_on_mps(tiny: Path, name: str) -> None:
    check_equal_to_cpu(tiny, "mps", RUNS[name])


@pytest.mark.parametrize("name", RUNS)
def test_ppo_with_triton(tiny: Path, name: str) -> None:
    check_equal_to_cpu(tiny, "cuda", RUNS[name], triton=True)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("name", BY_NAME)
def test_families(tiny: Path, tmp_path: Path, name: str, kind: Kind) -> None:
    check_family(BY_NAME[name], tiny, tmp_path, kind)


@pytest.mark.parametrize("name", BY_NAME)
def test_decoding_by_graphs(tiny: Path, tmp_path: Path, name: str) -> None:
    test_decode_graphs.check_family(BY_NAME[name], tiny, tmp_path)
