"""The pieces that wait for a GPU: what ran is kept, what failed is tried again, misses are told."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
gpu = importlib.import_module("gpu")
sys.path.pop()

WRITES = "import json, sys; json.dump([1.0, 3.0], open(sys.argv[-1], 'w'))"


def above_two(values: list[float]) -> Any:
    return (f"{value} of at most 2" for value in values if value > 2)


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found = {
        "good": gpu.Piece(("-c", "print('fine')"), (), ""),
        "slow": gpu.Piece(("-c", WRITES), (), "--out", above_two),
        "bad": gpu.Piece(("-c", "raise SystemExit(3)"), (), ""),
    }
    monkeypatch.setattr(gpu, "pieces", lambda: found)
    return found


def test_pieces_are_run_once_and_failures_again(
    pieces: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tiny", "--directory", str(tmp_path)]
    assert gpu.main(words) == 1
    out = capsys.readouterr().out
    assert "slow: " in out and "3.0 of at most 2" in out
    assert "bad: " in out and "exit code 3, see bad.log" in out
    directory = tmp_path / "cpu"
    assert (directory / "good.log").read_text() == "fine\n"
    assert json.loads((directory / "slow.json").read_text()) == [1.0, 3.0]
    assert sorted(path.name for path in directory.glob("*.done")) == ["good.done", "slow.done"]
    for path in directory.glob("*.log"):
        path.unlink()
    del pieces["slow"], pieces["bad"]
    assert gpu.main(words) == 0
    assert not (directory / "good.log").exists()  # it is not run again
    assert gpu.main([*words, "good"]) == 0  # unless it is named
    assert (directory / "good.log").exists()


def test_a_piece_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], *, timeout: float, **_: Any) -> None:
        raise gpu.subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    outcome = gpu.run("x", gpu.Piece(("-c", "print()"), (), ""), tmp_path, tiny=False)
    assert outcome["exit code"] == 124 and not (tmp_path / "x.done").exists()


def test_an_unknown_piece_is_refused(pieces: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--tiny", "other"])


def test_every_script_is_there_and_every_case_is_a_piece() -> None:
    found = gpu.pieces()
    assert {"tests", "kernels", "decode", "iteration-shared", "memory-nf4-64-alora"} <= {*found}
    scripts = {Path(piece.command[0]) for name, piece in found.items() if name != "tests"}
    assert all(script.exists() for script in scripts)


def test_what_misses_its_bar_is_told() -> None:
    kernel = {"kernel": "span_sum", "met": False, "bars": {"time": 1.1}}
    kernel |= {"ratios": {"time": {"median": 1.504}}}
    assert [*gpu.slow_kernels({"rows": [kernel, {"met": True}]})] == [
        "span_sum: {'time': 1.5}, at most {'time': 1.1}"
    ]
    memory = {"case": "nf4/16", "reserved_gib": 16.25, "planned_over_measured": 0.8}
    assert [*gpu.memory_misses({"cases": [memory]})] == [
        "nf4/16: 16.2 GiB, at most 15",
        "nf4/16: planned 0.80 of the measured memory",
    ]
    row = {"case": "shared", "iteration": 20.0}
    row |= {"of_update_operations": 0.9, "of_decode_bandwidth": 0.5}
    on_h200 = {"device": "NVIDIA H200", "cases": [row]}
    assert [*gpu.slow_iterations(on_h200)] == [
        "shared: 20.0 s, at most 18",
        "shared: 50% of decode bandwidth, at least 80%",
    ]
    assert len([*gpu.slow_iterations({**on_h200, "device": "NVIDIA T4"})]) == 1
    ratios = [{"case": "8 rows", "ratio": 0.9}, {"case": "64 rows", "ratio": 2.0}, {"ratio": None}]
    assert [*gpu.slow_graphs({"cases": ratios})] == ["8 rows: 0.90 of the eager tokens/s"]
