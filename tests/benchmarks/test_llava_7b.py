"""llava_7b.py and iteration_7b.py on a tiny model, without hydra and msgspec."""

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
    output, cases = tmp_path / "results.json", ["nf4/4", "int8/4", "bf16/2/alora"]
    arguments: list[Any] = [sys.executable, SCRIPT, "--tiny", "--output", output, "--cases", *cases]
    environment = {**os.environ, "PYTHONPATH": str(missing)}
    subprocess.run(arguments, env=environment, check=True, capture_output=True)
    records = json.loads(output.read_text())["cases"]
    assert [record["case"] for record in records] == cases
    for record in records:
        phases = {"generate", "score", "update"}
        assert {*record["seconds"]} == {*record["planned_gib"]} == phases
        assert record["response_tokens"] > 0 and record["max_logprob_diff"] < 1e-3


def test_every_kind_of_iteration_is_timed_beside_its_ideal(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    arguments: list[Any] = [
        sys.executable,
        SCRIPT.with_name("iteration_7b.py"),
        "--tiny",
        "--output",
        output,
    ]
    subprocess.run(arguments, check=True, capture_output=True)
    records = json.loads(output.read_text())["cases"]
    assert [record["case"] for record in records] == ["shared", "groups", "alora"]
    for record in records:
        assert record["iteration"] == sum(record["seconds"].values())
        shares = (
            record[f"of_{name}"] for name in ("decode_bandwidth", "update_operations", "roofline")
        )
        assert all(0 < share < 1 for share in shares)
    shared, groups, alora = (record["ideal"] for record in records)
    assert groups["update"] < shared["update"] and alora["ref_logprobs"] < shared["ref_logprobs"]
