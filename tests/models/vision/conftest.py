"""Tiny models of the families whose images take a varying number of tokens."""

from pathlib import Path

import pytest

from rlhf.models.llava import Llava
from tests.support import anyres


@pytest.fixture(params=anyres.BUILDERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def built(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Llava]:
    return {k: anyres.build(k, tiny, tmp_path_factory.mktemp("anyres")) for k in anyres.BUILDERS}


@pytest.fixture
def llava(kind: str, built: dict[str, Llava]) -> Llava:
    """Its weights may be changed, its directory not."""
    return built[kind].frozen_copy()
