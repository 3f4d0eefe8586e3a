"""Show the progress of a PPO run: a live view on a terminal, else short lines."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from time import monotonic

from rich.console import Group
from rich.live import Live
from rich.text import Text

from rlhf.tracking.activity import activity, depth
from rlhf.tracking.console import console, say

_BLOCKS = "▁▂▃▄▅▆▇█"
_SHOWN_METRICS = {  # label: metric
    "reward": "objective/rlhf_reward",
    "score": "objective/scores",
    "judge": "val/judge_scores",
    "KL": "objective/kl",
    "entropy": "policy/entropy_avg",
    "tokens": "tokens/responses_len_mean",
}
_SPARKLINE_WIDTH = 40  # iterations
_MIN_INTERVAL = 1.0  # seconds between plain lines


class RunView:
    """A live view of a run: its last metrics, its rewards, its last warning.

    Args:
        total: iterations of the whole run.
        done: iterations that a resumed run has done before.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self._total, self._first, self._done = total, done, done
        self._metrics, self._rewards, self._warning = dict[str, float](), list[float](), ""
        self._start, self._elapsed, self._depth = monotonic(), 0.0, depth()

    def advance(self, metrics: Mapping[str, float]) -> None:
        """Show the metrics of one more iteration."""
        self._done += 1
        self._elapsed = monotonic() - self._start
        self._metrics = {
            label: metrics[name] for label, name in _SHOWN_METRICS.items() if name in metrics
        }
        rewards = [*self._rewards, self._metrics.get("reward", float("nan"))]
        self._rewards = rewards[-_SPARKLINE_WIDTH:]

    def warn(self, warning: str) -> None:
        """Show a warning until the next one."""
        self._warning = warning

    def lines(self) -> tuple[str, str]:
        """Return two lines: how far the run is, and its last metrics."""
        iterations = self._done - self._first
        seconds = self._elapsed / max(iterations, 1)
        remaining = _duration(seconds * (self._total - self._done))
        times = f"  {seconds:.3g} s each, {remaining} left" if iterations else ""
        metrics = "  ".join(f"{label} {value:.4g}" for label, value in self._metrics.items())
        return f"iteration {self._done}/{self._total}{times}", metrics

    def __rich__(self) -> Group:
        progress, metrics = self.lines()
        rows = [Text(progress, style="bold"), Text(metrics), Text(sparkline(self._rewards), "cyan")]
        rows += [Text(self._warning, "yellow")] if self._warning else []
        return Group(*rows, Text(activity(self._depth), "dim"))


class PlainView(RunView):
    """A view that prints lines: the first iteration, the last, and one a second between."""

    _printed = -_MIN_INTERVAL

    def advance(self, metrics: Mapping[str, float]) -> None:
        """Print the metrics of one more iteration, unless a line was printed just now."""
        super().advance(metrics)
        last = self._done == self._total
        if last or self._done == self._first + 1 or self._elapsed - self._printed >= _MIN_INTERVAL:
            self._printed = self._elapsed
            say("  ".join(self.lines()))


@contextmanager
def watch(total: int, done: int = 0) -> Iterator[RunView]:
    """Show the iterations of a run; other output is printed above the view.

    Args:
        total: iterations of the whole run.
        done: iterations that a resumed run has done before.

    Yields:
        A view; call its `advance` after each iteration.
    """
    if not console().is_terminal:
        yield PlainView(total, done)
        return
    view = RunView(total, done)
    with Live(view, console=console(), refresh_per_second=2):
        yield view


def sparkline(values: Sequence[float]) -> str:
    """Draw values as blocks from ▁, the lowest, to █, the highest; a space if not finite."""
    finite = [value for value in values if isfinite(value)]
    if not finite:
        return ""
    low, height = min(finite), max(finite) - min(finite) or 1.0
    return "".join(_BLOCKS[round(7 * (x - low) / height)] if isfinite(x) else " " for x in values)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
