"""One PPO run as it goes: a live view on a terminal, elsewhere short lines."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from time import monotonic

from rich.console import Group
from rich.live import Live
from rich.text import Text

from rlhf.tracking.console import console, say

_BLOCKS = "▁▂▃▄▅▆▇█"
_SHOWN = {  # word: metric
    "reward": "objective/rlhf_reward",
    "score": "objective/scores",
    "KL": "objective/kl",
    "entropy": "policy/entropy_avg",
    "tokens": "tokens/responses_len_mean",
}
_WIDTH = 40  # of the sparkline, iterations
_PAUSE = 1.0  # seconds between plain lines at least


class RunView:
    """What is known of a run: its last metrics, its rewards, its last warning.

    Args:
        total: iterations of the whole run.
        done: those behind it, of a run that is continued.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self._total, self._first, self._done = total, done, done
        self._metrics, self._rewards, self._warning = dict[str, float](), list[float](), ""
        self._start = monotonic()
        self._spent = 0.0

    def advance(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of one more iteration."""
        self._done += 1
        self._spent = monotonic() - self._start
        self._metrics = {word: metrics[name] for word, name in _SHOWN.items() if name in metrics}
        self._rewards = [*self._rewards, self._metrics.get("reward", float("nan"))][-_WIDTH:]

    def warn(self, warning: str) -> None:
        """Keep a warning on show until the next one."""
        self._warning = warning

    def lines(self) -> tuple[str, str]:
        """How far the run is, and its last metrics."""
        here = self._done - self._first
        each = self._spent / max(here, 1)
        left = each * (self._total - self._done)
        times = f"  {each:.3g} s each, {_duration(left)} left" if here else ""
        metrics = "  ".join(f"{word} {value:.4g}" for word, value in self._metrics.items())
        return f"iteration {self._done}/{self._total}{times}", metrics

    def __rich__(self) -> Group:
        where, metrics = self.lines()
        rows = [Text(where, style="bold"), Text(metrics), Text(sparkline(self._rewards), "cyan")]
        return Group(*rows, *([Text(self._warning, "yellow")] if self._warning else []))


class PlainView(RunView):
    """The same as lines for a file: the first, the last, and one a second at most between."""

    _printed = -_PAUSE

    def advance(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of one more iteration and say them."""
        super().advance(metrics)
        last = self._done == self._total
        if last or self._done == self._first + 1 or self._spent - self._printed >= _PAUSE:
            self._printed = self._spent
            say("  ".join(self.lines()))


@contextmanager
def watch(total: int, done: int = 0) -> Iterator[RunView]:
    """A view of a run's iterations; what is printed meanwhile stands above it."""
    if not console().is_terminal:
        yield PlainView(total, done)
        return
    view = RunView(total, done)
    with Live(view, console=console(), refresh_per_second=2):
        yield view


def sparkline(values: Sequence[float]) -> str:
    """A block a value, the lowest to the highest; a gap where one is not finite."""
    finite = [value for value in values if isfinite(value)]
    if not finite:
        return ""
    low, wide = min(finite), max(finite) - min(finite) or 1.0
    return "".join(_BLOCKS[round(7 * (x - low) / wide)] if isfinite(x) else " " for x in values)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
