"""Hostile texts give no special id, no image placeholder, and no changed character."""

from collections import Counter

import pytest

from tests.support.hostile_prompts import attack
from tests.support.processors import NAMES, PROCESSORS


@pytest.mark.parametrize("name", NAMES)
def test_hundreds_of_hostile_prompts(name: str) -> None:
    assert attack(PROCESSORS[name](), 500, seed=1) == Counter(trials=500)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_tens_of_thousands_of_hostile_prompts(name: str) -> None:
    """40,000 in all; `python -m tests.support.hostile_prompts 100000` tries the full number."""
    assert attack(PROCESSORS[name](), 8_000) == Counter(trials=8_000)
