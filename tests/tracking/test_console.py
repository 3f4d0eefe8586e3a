import io
import re

import pytest
from rich.console import Console

from rlhf.errors import DataError, UsageError
from rlhf.tracking import console as module
from rlhf.tracking.console import console, print_error, stage, table, track


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_at_each_tenth(capsys, clock):
    with track("train", 100) as progress:
        for _ in range(100):
            progress.advance(loss=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert " ".join(lines[0].split()) == "train 10/100 0 s, 0 s left loss 0.5"
    assert "100/100" in lines[-1]


def test_plain_lines_come_after_five_seconds_with_the_time_left(capsys, clock):
    with track("train", 1000) as progress:
        for _ in range(12):
            clock[0] += 2
            progress.advance()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["3/1000", "6/1000", "9/1000", "12/1000"]
    # 3 steps took 6 s, so 997 steps take 1994 s
    assert lines[0].split(maxsplit=2)[2] == "6 s, 1994 s left"


def test_the_latest_metrics_stay_until_they_change(capsys, clock):
    with track("ppo", 2) as progress:
        progress.advance(kl=1.0, score=2.0)
        progress.advance(kl=3.14159)
    assert capsys.readouterr().out.splitlines()[1].endswith("kl 3.142  score 2")


def test_steps_of_any_size_and_nothing_to_do(capsys, clock):
    with track("empty", 0) as progress:
        progress.advance()
    with track("jump", 7) as progress:
        progress.advance(7)
    assert "7/7" in capsys.readouterr().out


def test_quiet_silences_all_but_errors(capsys):
    console().quiet = True
    try:
        stage("x")
        table("t", ["a"], [[1]])
        with track("x", 1) as progress:
            progress.advance()
        print_error(DataError("bad", "here", "mend it"))
    finally:
        console().quiet = False
    out, err = capsys.readouterr()
    assert out == "" and err


def test_an_error_is_three_lines_on_stderr_however_long(capsys):
    long_text = "x" * 300
    print_error(UsageError(f"[bold]{long_text}", "ppo.lr", "lower it"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"error: [bold]{long_text}", "where: ppo.lr", "to do: lower it"]
    print_error(UsageError("only this"))
    assert capsys.readouterr().err == "error: only this\n"


def test_a_table_shows_its_cells_as_they_are(capsys):
    table("[t]", ["name", "value"], [["[red]rule", 0.123456], ["b", 12345]])
    out = capsys.readouterr().out
    assert "[t]" in out and "[red]rule" in out and "0.1235" in out
    widths = [line.rstrip(" │").rfind("5") for line in out.splitlines() if "5" in line]
    assert len(widths) == 2 and widths[0] == widths[1], "numbers end in one column"


# Title, colour, cursor, clipboard, a bell, a line that overwrites another, and 8-bit CSI and OSC.
HOSTILE = "\x1b]0;t\x07 \x1b[31m \x1b[2J \x1b]52;c;eA==\x1b\\ \a \r \b \x9b31m \x9d0;t\x9c \x7f"


@pytest.mark.parametrize("terminal", [True, False])
def test_what_commands_a_terminal_is_shown_not_sent(monkeypatch, terminal):
    file = io.StringIO()
    fake = module.TimedConsole(file=file, force_terminal=terminal, width=200, color_system=None)
    monkeypatch.setattr(module, "console", lambda: fake)
    module.say(HOSTILE)
    stage(HOSTILE)
    table(HOSTILE, (HOSTILE,), [(HOSTILE,)])
    fake.print(HOSTILE, markup=False)
    with track(HOSTILE, 2) as progress:
        progress.advance(2)
    own = re.sub(r"\x1b\[(\?25[lh]|2K|1A)|\r", "", file.getvalue())  # of the live bar
    assert not set(own) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}
    assert own.count("␛[31m") >= 5 and "␡" in own and "\ufffd31m" in own


def test_an_error_does_not_command_a_terminal_either(capsys):
    print_error(DataError(HOSTILE, HOSTILE, HOSTILE))
    text = capsys.readouterr().err
    assert "\x1b" not in text and text.count("␛[31m") == 3


def test_on_a_terminal_a_bar_shows_count_and_metrics(monkeypatch):
    file = io.StringIO()
    screen = Console(force_terminal=True, file=file, width=120)
    monkeypatch.setattr(module, "console", lambda: screen)
    with track("train [a]", 4) as progress:
        progress.advance(3, loss=0.25)
    shown = file.getvalue()
    assert "train [a]" in shown and "3/4" in shown and "loss 0.25" in shown
