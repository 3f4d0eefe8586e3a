"""The view of a run: what it shows, on a terminal of any width, and what it leaves behind."""

import io

import pytest
from rich.console import Console

from rlhf.tracking import live_view as module
from rlhf.tracking.console import say
from rlhf.tracking.live_view import sparkline, watch

METRICS = {"objective/rlhf_reward": 0.5, "objective/kl": 1.25, "tokens/responses_len_mean": 7.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(force_terminal=True, file=io.StringIO(), width=100, highlight=False)
    monkeypatch.setattr(module, "console", lambda: console)
    monkeypatch.setattr("rlhf.tracking.console.console", lambda: console)
    return console


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert sparkline([0, 7, 3, float("nan"), 1]) == "▁█▄ ▂"
    assert sparkline([2, 2]) == "▁▁"
    assert sparkline([]) == sparkline([float("inf")]) == ""


def test_plain_lines_tell_metrics_and_time_left_of_a_continued_run(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with watch(1810, done=8) as view:
        clock[0] = 4
        view.advance(METRICS)
        clock[0] = 8
        view.advance(METRICS)
    first, second = capsys.readouterr().out.splitlines()
    # 4 s each; 1801 are left after the first: 7204 s
    assert first == "iteration 9/1810  4 s each, 2:00:04 left  reward 0.5  KL 1.25  tokens 7"
    assert second.startswith("iteration 10/1810  4 s each, 2:00:00 left")


def test_quick_iterations_give_the_first_line_the_last_and_one_a_second(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with watch(35) as view:
        for n in range(35):
            clock[0] = n / 8
            view.advance(METRICS)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/35", "9/35", "17/35", "25/35", "33/35"] + [
        "35/35"
    ]


def test_the_view_shows_metrics_rewards_and_the_last_warning(
    screen: Console, clock: list[float]
) -> None:
    with watch(4) as view:
        for reward in (0.0, 1.0):
            clock[0] += 30
            view.advance(METRICS | {"objective/rlhf_reward": reward})
        view.warn("an older [one]")
        view.warn("KL explosion")
    output = screen.file.getvalue()  # type: ignore[attr-defined]
    last = output[output.rindex("iteration") :]
    assert "2/4  30 s each, 1:00 left" in last and "KL 1.25" in last and "▁█" in last
    assert "KL explosion" in last and "older" not in last


def test_messages_are_printed_in_full_above_the_view(screen: Console) -> None:
    with watch(2) as view:
        view.advance(METRICS)
        say("read this " + "x" * 300)
    output = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "read this " + "x" * 300 in output
    assert output.rindex("iteration") > output.rindex("read this")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_cursor_is_restored_after_an_exception(
    screen: Console, error: type[BaseException]
) -> None:
    with pytest.raises(error), watch(2):
        raise error
    output = screen.file.getvalue()  # type: ignore[attr-defined]
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")


@pytest.mark.parametrize("width", [1, 12, 30])
def test_a_narrow_terminal_wraps(screen: Console, width: int) -> None:
    screen.width = width
    with watch(2) as view:
        view.advance(METRICS)
        view.warn("KL explosion at step 3: the reward pulls too hard")
    assert "iteration"[:width] in screen.file.getvalue()  # type: ignore[attr-defined]
