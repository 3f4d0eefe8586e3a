"""A few of the command lines of `make fuzz`; and the fuzz sees a traceback where there is one."""

import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from rlhf.cli.commands import COMMANDS
from rlhf.config.option_types import option_types
from tests.fuzz.command_lines import command_lines
from tests.fuzz.harness import run_line
from tests.fuzz.inputs import write_inputs

LINES = 25


@pytest.fixture(scope="module")
def directory(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("fuzz") / "a" / "b" / "work", tiny)


def test_no_command_line_ends_in_a_traceback(directory: Path) -> None:
    outcomes = [run_line(words, directory) for words in islice(command_lines(seed=11), LINES)]
    assert [(outcome.words, outcome.fault) for outcome in outcomes if outcome.fault] == []
    assert len({outcome.end for outcome in outcomes}) > 1


def test_a_traceback_and_a_silent_failure_are_seen(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(job: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("rlhf.cli.main.load_function", lambda name: fails)
    outcome = run_line(["validate"], directory)
    assert outcome.end == "traceback" and outcome.place.endswith("KeyError: 'a bug'")
    monkeypatch.setattr("tests.fuzz.harness.main", lambda words: 3)
    assert run_line(["validate"], directory).fault == "exit 3 with 0 errors"


POOL = """
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from tests.fuzz.workers import kill_workers_on_signals

if __name__ == "__main__":
    kill_workers_on_signals()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        futures = [pool.submit(signal.pause) for _ in range(2)]
        print(*(worker.pid for worker in active_children()), flush=True)
        futures[0].result()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_workers_too(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "pool.py"],
        cwd=tmp_path,
        env={**os.environ, **paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        try:
            process.send_signal(number)
            assert process.wait(60) == 128 + number
            assert len(workers) == 2 and psutil.wait_procs(workers, timeout=10)[1] == []
        finally:
            for worker in filter(psutil.Process.is_running, workers):
                worker.kill()
            process.kill()


def test_every_option_of_every_command_comes_before_any_comes_twice() -> None:
    pairs = {(command, name) for command in COMMANDS for name, _ in option_types()}
    lines = islice(command_lines(seed=0), len(pairs))
    assert {(words[0], words[-1].partition("=")[0].lstrip("+~")) for words in lines} == pairs
