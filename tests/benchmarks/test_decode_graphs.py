"""The benchmark of decoding by graphs: eager alone on a CPU, both on a disguised GPU."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from tests.support import tiny_models
from tests.support.disguised_gpu import disguised_gpu
from tests.support.fake_graphs import fake_graphs

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
script = importlib.import_module("decode_graphs")
sizes = importlib.import_module("llava_7b").TINY
sys.path.pop()


def test_a_cpu_decodes_eagerly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results.json"
    script.main(["--tiny", "--cases", "8 rows", "--output", str(output)])
    (row,) = json.loads(output.read_text())["cases"]
    assert row["case"] == "8 rows" and row["eager"] > 0 and row["graphs"] is row["ratio"] is None
    assert "8 rows" in capsys.readouterr().out


def test_a_gpu_decodes_both_ways(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of two prompts in groups, one graph a batch."""
    monkeypatch.setattr(script, "CASES", {"8 rows": (8, 4)})
    monkeypatch.setattr(script, "synchronizer", lambda device: lambda: None)
    with disguised_gpu() as gpu, fake_graphs(gpu) as fake:
        row = script.measure(tiny_models.load(tiny, device="cuda"), "8 rows", sizes, tmp_path)
    assert row["ratio"] == row["graphs"] / row["eager"] > 0
    assert len(fake.graphs) == 1 + script.REPEATS
    assert fake.replays == len(fake.graphs) * (sizes.response - 1)
