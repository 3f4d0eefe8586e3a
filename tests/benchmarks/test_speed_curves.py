"""The curves of time over sizes: cases, points and the plot."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
speed_curves = importlib.import_module("speed_curves")
ours, runs = map(importlib.import_module, ("baselines.ours", "baselines.runs"))
rows, spec, case_files = map(
    importlib.import_module, ("baselines.rows", "baselines.spec", "baselines.case_files")
)
sys.path.pop()


@pytest.mark.parametrize("curve", speed_curves.CURVES)
def test_one_size_changes_along_a_curve(curve: str) -> None:
    jobs = speed_curves.jobs(curve, speed_curves.BASE)
    sizes = speed_curves.CURVES[curve][1]
    for line in speed_curves.LINES:
        cases = [vars(job.case) for name, _, job in jobs if name == line]
        changed = {name for name in cases[0] if len({case[name] for case in cases}) > 1}
        assert changed == ({"batch_size", "minibatch_size"} if curve == "batch_size" else {curve})
        assert [case[curve] for case in cases] == [*sizes]


def test_random_lengths_have_about_the_mean_of_the_fixed_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = spec.Case(
        **rows.TINY
        | {"response_tokens": 32, "eos_share": 1 / 8, "batch_size": 32, "timed_iterations": 1}
    )
    ours.main(str(case_files.write_case_files(tmp_path, case).directory))
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(report["tokens"]) == case.timed_iterations
    assert 5 < report["tokens"][0] / case.batch_size < 12


def test_a_point_is_a_median_and_lies_at_its_mean_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Any, job: Any) -> dict[str, Any]:
        cpu = [{"rollout": 1.0, "update": x} for x in (5.0, 1.0, 2.0)]
        return {"cpu": cpu, "tokens": [160, 320]}

    monkeypatch.setattr(runs.Runner, "run", run)
    monkeypatch.setattr(runs.Runner, "can_run", lambda self, job: job.baseline == "ours")
    output = tmp_path / "curves"
    assert speed_curves.main(["--curves", "response_tokens", "--output", str(output)]) == 0
    points = json.loads(output.with_suffix(".json").read_text())
    assert {point["seconds"] for point in points} == {3.0}
    mean_lengths = [x["size"] for x in points if x["line"] == speed_curves.VARIED_LENGTHS]
    assert mean_lengths == [15.0] * 4
    assert {point["line"] for point in points} == {
        speed_curves.VARIED_LENGTHS,
        "ours, shared critic",
    }
    assert output.with_suffix(".png").stat().st_size > 5_000


def test_a_new_curve_replaces_the_old_one() -> None:
    old = [{"curve": name, "size": 1} for name in ("batch_size", "response_tokens", "batch_size")]
    new = [{"curve": "batch_size", "size": 2}, {"curve": "samples_per_prompt", "size": 2}]
    points = speed_curves.merge_points(old, new)
    assert [(point["curve"], point["size"]) for point in points] == [
        ("response_tokens", 1),
        ("batch_size", 2),
        ("samples_per_prompt", 2),
    ]
