"""The measurement of the 7B runs where neither hydra nor msgspec is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "llava_7b.py"


def test_every_storage_runs_through_all_phases(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    missing.mkdir()
    for name in ("hydra", "omegaconf", "msgspec"):
        (missing / f"{name}.py").write_text("raise ImportError(__name__)")
    output, cases = tmp_path / "found.json", ["nf4/4", "int8/4", "bf16/2/response"]
    words: list[Any] = [sys.executable, SCRIPT, "--tiny", "--output", output, "--cases", *cases]
    environment = {**os.environ, "PYTHONPATH": str(missing)}
    subprocess.run(words, env=environment, check=True, capture_output=True)
    found = json.loads(output.read_text())["cases"]
    assert [one["case"] for one in found] == cases
    for one in found:
        phases = {"generate", "score", "update"}
        assert {*one["seconds"]} == {*one["planned_gib"]} == phases
        assert one["response_tokens"] > 0 and one["largest_logprob_gap"] < 1e-3


def test_every_kind_of_iteration_is_timed_beside_its_ideal(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    words: list[Any] = [
        sys.executable,
        SCRIPT.with_name("iteration_7b.py"),
        "--tiny",
        "--output",
        output,
    ]
    subprocess.run(words, check=True, capture_output=True)
    found = json.loads(output.read_text())["cases"]
    assert [one["case"] for one in found] == ["shared", "groups", "late"]
    for one in found:
        assert one["iteration"] == sum(one["seconds"].values())
        shares = (
            one[f"of_{name}"] for name in ("decode_bandwidth", "update_operations", "roofline")
        )
        assert all(0 < share < 1 for share in shares)
    shared, groups, late = (one["ideal"] for one in found)
    assert groups["update"] < shared["update"] and late["ref_logprobs"] < shared["ref_logprobs"]
