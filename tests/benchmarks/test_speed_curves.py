"""The curves of time over sizes: what is run, where a point lies, and the image."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
speed_curves = importlib.import_module("speed_curves")
ours, runs = map(importlib.import_module, ("baselines.ours", "baselines.runs"))
rows, spec, world = map(
    importlib.import_module, ("baselines.rows", "baselines.spec", "baselines.world")
)
sys.path.pop()


@pytest.mark.parametrize("curve", speed_curves.CURVES)
def test_one_size_changes_along_a_curve(curve: str) -> None:
    found = speed_curves.entrants(curve, speed_curves.BASE)
    sizes = speed_curves.CURVES[curve][1]
    for line in speed_curves.LINES:
        cases = [vars(entrant.case) for name, _, entrant in found if name == line]
        differ = {name for name in cases[0] if len({case[name] for case in cases}) > 1}
        assert differ == ({"batch", "minibatch"} if curve == "batch" else {curve})
        assert [case[curve] for case in cases] == [*sizes]


def test_lengths_of_all_sizes_have_the_mean_of_the_fixed_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = spec.Case(**rows.TINY | {"response": 32, "ends": 1 / 8, "batch": 32, "timed": 1})
    ours.main(str(world.build_world(tmp_path, case).directory))
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(report["tokens"]) == case.timed
    assert 5 < report["tokens"][0] / case.batch < 12


def test_a_point_is_a_median_and_lies_at_its_mean_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(self: Any, entrant: Any) -> dict[str, Any]:
        spent = [{"rollout": 1.0, "update": x} for x in (5.0, 1.0, 2.0)]
        return {"cpu": spent, "tokens": [160, 320]}

    monkeypatch.setattr(runs.Runs, "once", once)
    monkeypatch.setattr(runs.Runs, "can_run", lambda self, one: one.contender == "ours")
    output = tmp_path / "curves"
    assert speed_curves.main(["--curves", "response", "--output", str(output)]) == 0
    found = json.loads(output.with_suffix(".json").read_text())
    assert {one["seconds"] for one in found} == {3.0}
    skewed = [one["size"] for one in found if one["line"] == speed_curves.SKEWED]
    assert skewed == [15.0] * 4
    assert {one["line"] for one in found} == {speed_curves.SKEWED, "ours, shared critic"}
    assert output.with_suffix(".png").stat().st_size > 5_000


def test_a_curve_takes_the_place_of_its_last() -> None:
    kept = [{"curve": name, "size": 1} for name in ("batch", "response", "batch")]
    found = [{"curve": "batch", "size": 2}, {"curve": "samples", "size": 2}]
    joined = speed_curves.joined(kept, found)
    assert [(one["curve"], one["size"]) for one in joined] == [
        ("response", 1),
        ("batch", 2),
        ("samples", 2),
    ]
