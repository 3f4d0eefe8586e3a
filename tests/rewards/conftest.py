"""A tiny LLaVA and a tiny text model for the tests of reward models."""

from pathlib import Path

import pytest

from rlhf.models.llava import Llava
from tests.support import reward_models as kit
from tests.support import tiny_models


@pytest.fixture(scope="session")
def text_model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write_text_model(tmp_path_factory.mktemp("text"), tiny, "text")


@pytest.fixture
def llava(tiny: Path) -> Llava:
    return tiny_models.load(tiny)
