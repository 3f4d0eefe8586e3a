"""The 7B on a CPU without the 7B: phases of activities, command lines, what is resumed."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf.tracking.activity import working

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
script, watched = map(importlib.import_module, ("llava_7b_cpu", "baselines.watched_command"))
sys.path.pop()


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        ("rlhf ppo, loading /m", "loading"),
        ("rlhf ppo, iteration 1, responses 0/8, reading prompts", "prefill"),
        ("rlhf ppo, iteration 1, responses 0/8, sampling, tokens 3/16", "decode"),
        ("rlhf ppo, iteration 1, scores, micro-batches 0/2", "scoring"),
        ("rlhf ppo, iteration 1, log-probabilities of the policy, micro-batches 1/2", "scoring"),
        ("rlhf ppo, iteration 1, optimizer steps 0/2, micro-batches 0/1", "update"),
        ("rlhf reward, optimizer step, micro-batches 0/1", "update"),
        ("rlhf reward, micro-batches 0/1", "scoring"),
        ("rlhf ppo", "other"),
    ],
)
def test_an_activity_belongs_to_a_phase(text: str, phase: str) -> None:
    assert watched.phase_of(text) == phase


def test_time_and_peak_memory_are_charged_to_what_is_in_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = iter([(10, 1), (30, 2), (20, 3), (5, 4)])
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    names = ("Anon", "File")
    monkeypatch.setattr(watched, "memory", lambda: dict(zip(names, next(held), strict=True)))
    monkeypatch.setattr(watched.time, "monotonic", lambda: next(clock))
    watch = watched.Watch()
    with working("loading m"):
        watch.look()
        watch.look()
    with working("sampling"):
        watch.look()
    watch.look()
    assert dict(watch.phases) == {
        "loading": {"seconds": 3.0, "anonymous": 30, "mapped": 2},
        "decode": {"seconds": 3.0, "anonymous": 20, "mapped": 3},
        "other": {"seconds": 4.0, "anonymous": 5, "mapped": 4},
    }


def test_the_memory_of_this_process_is_read() -> None:
    assert {*watched.memory()} == {"Anon", "File"} and watched.memory()["Anon"] > 2**20


def test_a_stage_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        calls.append(command[4:])
        Path(command[3]).write_text(json.dumps({"decode": {"seconds": 2.0}}))

    monkeypatch.setattr(script.subprocess, "run", run)
    study = script.Study(tmp_path, "nf4")
    for _ in range(2):
        assert script.measure(study, "collect") == {"decode": {"seconds": 2.0}}
    (words,) = calls
    assert words[0] == "collect" and "model.quantization=nf4" in words
    (tmp_path / "nf4/reward/0001-x").mkdir(parents=True)
    (tmp_path / "nf4/ppo/0002-x").mkdir(parents=True)
    assert f"reward.path={tmp_path}/nf4/reward/0001-x" in study.words("ppo")
    assert study.words("evaluate")[1:3] == [f"{tmp_path}/model", f"{tmp_path}/nf4/ppo/0002-x"]
