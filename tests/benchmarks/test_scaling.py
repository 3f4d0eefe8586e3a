"""The plan of many GPUs by benchmarks/scaling.py, by hand; a worker is run by hand only."""

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

from rlhf.planning.model_dims import read_dims
from rlhf.planning.resident_memory import (
    trainable_parameters,
)

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
scaling = importlib.import_module("scaling")
sys.path.pop()


def test_the_plan_of_512_gpus_by_hand() -> None:
    """Each GPU has 64 responses and 16 a step; 16 steps sum a LoRA of rank 16 twice."""
    rows = scaling.planned(0.5)
    assert [row["gpus"] for row in rows] == [1, 8, 64, 512] * 2
    alone, *_, many = rows[:4]
    trained = trainable_parameters(read_dims(scaling.MODELS["7B"]), scaling.WORKLOAD)
    assert many["sent_gb"]["gradients"] == pytest.approx(511 / 512 * 8 * trained * 16 / 1e9)
    assert many["sent_gb"]["rollout"] == pytest.approx(511 / 512 * 28 * 64 * 128 * 512 / 1e9)
    spread = 1 + 0.5 * math.sqrt(2 * math.log(512) / 64)
    assert many["imbalance"] == pytest.approx(spread)
    assert many["seconds"] == pytest.approx(alone["seconds"] * spread + many["exchange"])
    assert many["use"] == pytest.approx(alone["seconds"] / many["seconds"])
    assert alone["exchange"] == 0 and alone["use"] == 1


def test_the_page_has_the_results_and_they_are_within_the_bars() -> None:
    result = json.loads(scaling.RESULTS.read_text())
    page = Path(__file__).parents[2] / "docs/pages/guides/parallel.md"
    assert scaling.markdown(result) in page.read_text()
    for count, bar in scaling.BARS.items():
        assert result["processes"][str(count)]["ratio"] <= bar
    assert [row["seconds"] for row in result["planned"]] == pytest.approx(
        [row["seconds"] for row in scaling.planned(result["length_variation"])]
    )
