"""Processes of this machine: what their run ends with."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from rlhf.parallel.launcher import _exit_codes, _handled, is_crash, launch, run_exit_code


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ({0: 75, 1: 75}, 75),
        ({0: 5, 1: 3}, 3),
        ({0: -15, 1: 2}, 2),
        ({0: 5, 1: 1}, 1),
        ({0: 143, 1: -15}, 143),
        ({0: 5, 1: -9}, -9),
        ({0: -15, 1: 5}, 5),
        ({1: -15}, -15),
        ({0: 143, 1: -9}, -9),
        ({0: 5, 1: 143}, 143),
        ({0: 143, 1: 75}, 75),
    ],
)
def test_the_code_that_says_what_happened_comes_first(codes: dict[int, int], code: int) -> None:
    assert run_exit_code(codes) == code


@pytest.mark.parametrize("code", [1, 5, -9, -11, -6])
def test_a_crash_may_be_tried_again(code: int) -> None:
    assert is_crash(code)


@pytest.mark.parametrize("code", [2, 3, 4, 6, 75, 130, 143, -15, -2, -10])
def test_a_code_that_means_something_is_no_crash(code: int) -> None:
    assert not is_crash(code)


def failure(rank: int, code: int, timestamp: int) -> ProcessFailure:
    ended = ProcessFailure(rank, 0, code, "")
    ended.timestamp = timestamp
    return ended


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert _handled() == ["SIGTERM", "SIGINT", "SIGQUIT", "SIGUSR1"]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_kill_by_the_launcher_itself_is_no_crash() -> None:
    killed = {0: failure(0, 1, 100), 1: failure(1, -9, 131), 2: failure(2, -9, 100)}
    assert _exit_codes(killed) == {0: 1, 1: -15, 2: -9}


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def test_every_process_knows_its_number_and_codes_are_by_rank(tmp_path: Path) -> None:
    source = f"import os; r = os.environ['RANK']; open('{tmp_path}/' + r, 'w').close()"
    assert launch(python(source), 3, 10) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    code = launch(python("import os, sys; sys.exit(4 * int(os.environ['RANK']))"), 2, 10)
    assert isinstance(code, dict) and code[1] == 4
    killed = launch(
        python("import os; os.environ['RANK'] == '1' and os.kill(os.getpid(), 9)"), 2, 10
    )
    assert isinstance(killed, dict) and killed[1] == -9


def test_a_signal_to_the_launcher_is_passed_on_and_waited_for(tmp_path: Path) -> None:
    source = f"""
import os, signal, sys
def save(*_):
    open('{tmp_path}/saved' + os.environ['RANK'], 'w').close()
    sys.exit(75)
signal.signal(signal.SIGUSR1, save)
with open('{tmp_path}/ready', 'wb', buffering=0) as pipe:
    pipe.write(b'x')
while True:
    signal.pause()
"""
    handlers = [signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)]
    os.mkfifo(tmp_path / "ready")
    pipe = os.open(tmp_path / "ready", os.O_RDWR)

    def interrupt() -> None:
        for _ in range(2):
            os.read(pipe, 1)
        os.kill(os.getpid(), signal.SIGUSR1)

    sender = threading.Thread(target=interrupt)
    sender.start()
    try:
        assert launch(python(source), 2, 10) == "SIGUSR1"
    finally:
        sender.join()
        os.close(pipe)
    after = [signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)]
    assert after == handlers
    assert sorted(path.name for path in tmp_path.glob("saved*")) == ["saved0", "saved1"]
