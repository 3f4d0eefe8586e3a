"""The models that are planned."""

from pathlib import Path

import pytest

from rlhf.planning.model_dims import ModelDims, read_dims
from tests.support.planned import wide_model


@pytest.fixture(scope="session")
def llava_7b() -> ModelDims:
    return read_dims("llava-hf/llava-1.5-7b-hf")


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wider and deeper model than `tiny`, with its images."""
    return wide_model(tmp_path_factory.mktemp("wide"))
