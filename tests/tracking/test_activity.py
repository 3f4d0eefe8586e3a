"""What is in progress is named, and silence is broken; all times are handed in."""

import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Task, TaskID

from rlhf.config.schema import ModelConfig
from rlhf.models.policy import build_policy
from rlhf.tracking import heartbeat as module
from rlhf.tracking.activity import activity, working
from rlhf.tracking.console import ActivityColumn, console, say
from rlhf.tracking.heartbeat import Heartbeat, heartbeat
from rlhf.tracking.live_view import RunView
from rlhf.tracking.profiler import phase
from tests.support import tiny_models


@pytest.fixture(autouse=True)
def no_heartbeat() -> None:
    """These tests are of the heartbeat, which all others are spared."""


def test_parts_are_named_inside_one_another() -> None:
    assert activity() == ""
    with working("iteration 3"), phase("decode"), working("tokens", 128) as part:
        part.advance()
        part.advance(11)
        assert activity() == "iteration 3, sampling, tokens 12/128"
    assert activity() == ""
    with pytest.raises(ValueError, match="x"), working("scores"):
        raise ValueError("x")
    assert activity() == ""


def test_silence_is_broken_after_two_seconds_and_then_ever_more_rarely() -> None:
    beat = Heartbeat()
    lines = {now: beat.line(float(now), 1.0, "loading") for now in range(1, 70)}
    said = [now for now, line in lines.items() if line]
    assert said == [3, 5, 9, 17, 33, 65]  # 2, 2, 4, 8, 16, 32 seconds after the one before
    assert lines[9] == "… loading  8 s"
    beat = Heartbeat()
    waits = [now for now in range(1, 1000) if beat.line(float(now), 1.0, "loading")]
    assert waits[-1] - waits[-2] == 60


def test_what_changes_is_said_every_two_seconds() -> None:
    beat = Heartbeat()
    lines = [beat.line(now / 2, 0.5, f"tokens {now}") for now in range(1, 14)]
    assert [line for line in lines if line] == [
        "… tokens 5  2 s",
        "… tokens 9  4 s",
        "… tokens 13  6 s",
    ]


def test_other_output_breaks_the_silence_too() -> None:
    beat = Heartbeat()
    assert not beat.line(2.5, 1.0, "x")
    assert not beat.line(3.5, 3.0, "x")
    assert beat.line(5.0, 3.0, "x") == "… x  2 s"
    assert not beat.line(9.0, 8.5, "")  # nothing is named


def test_lines_come_from_one_thread_that_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = threading.Event()
    monkeypatch.setattr(module, "FIRST", 0.0)
    monkeypatch.setattr(module, "TICK", 0.001)
    monkeypatch.setattr(sys.stderr, "flush", printed.set)
    before = threading.active_count()
    with heartbeat(), working("loading"), heartbeat():
        assert threading.active_count() == before + 1
        assert printed.wait(10)
    assert threading.active_count() == before
    assert capsys.readouterr().err.startswith("… loading  0 s\n")


def test_printing_is_remembered() -> None:
    before = console().last_output
    say("something")
    assert console().last_output > before


def test_the_live_view_shows_what_is_in_progress() -> None:
    screen = Console(width=60)
    with working("rlhf ppo"):
        view = RunView(4)
        with working("iteration 1"), working("tokens", 8) as part, screen.capture() as shown:
            part.advance(3)
            screen.print(view)
    assert "\niteration 1, tokens 3/8\n" in shown.get()  # without what encloses the view


def test_a_bar_shows_what_is_in_progress_inside_it() -> None:
    with working("rlhf reward"):
        column = ActivityColumn()
        task = Task(TaskID(0), "pairs", total=2, completed=1, _get_time=lambda: 0.0)
        with working("optimizer step"):
            assert str(column.render(task)) == "optimizer step"
            assert str(column.render(replace(task, completed=2, finished_time=1.0))) == ""
        assert str(column.render(task)) == ""


def test_every_part_of_an_iteration_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = set[str]()
    monkeypatch.setattr("rlhf.tracking.activity.Part.advance", lambda *_: named.add(activity()))
    policy = build_policy(tiny_models.load(tiny), ModelConfig(), temperature=1.0)
    trainer = tiny_models.two_iterations(policy, tiny_models.prompts_of(policy.llava, tiny), tiny)
    trainer.run()
    texts = {re.sub(r" \d+/\d+", "", text) for text in named}
    for part in (
        "sampling, tokens",
        "scores, micro-batches",
        "log-probabilities of the policy, micro-batches",
        "log-probabilities of the reference, micro-batches",
        "optimizer steps, micro-batches",
    ):
        assert any(text.startswith("iteration 1") and part in text for text in texts)
