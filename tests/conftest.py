"""One thread and one seed for every test, and the tiny models they share."""

from math import inf
from pathlib import Path

import pytest
import torch

from rlhf.demo.scenes import write_images
from rlhf.demo.tiny_llava import build_tiny_llava
from rlhf.models.llava import Llava
from tests.support import reward_models as kit
from tests.support import tiny_models

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests of several processes are slow ones, too."""
    for item in items:
        if item.get_closest_marker("processes"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine a line about what is in progress would stand among those of a test."""
    monkeypatch.setattr("rlhf.tracking.heartbeat.FIRST", inf)


@pytest.fixture
def low_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the untrained tiny model every token is unlikely: some are floored, not all."""
    monkeypatch.setattr("rlhf.rewards.llava_reward.MIN_LOGPROB", -6.0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with model/ (an untrained tiny LLaVA) and images/00000.png … 00007.png."""
    directory = tmp_path_factory.mktemp("tiny")
    write_images(directory / "pictures", 8, "tests")
    texts = ["What colour is the circle? red", "There are two shapes in this picture."]
    build_tiny_llava(directory / "model", texts, seed=0, hidden=32, layers=2)
    return directory


@pytest.fixture
def llava(tiny: Path) -> Llava:
    return tiny_models.load(tiny)


@pytest.fixture(scope="session")
def text_model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write_text_model(tmp_path_factory.mktemp("text"), tiny, "text")
