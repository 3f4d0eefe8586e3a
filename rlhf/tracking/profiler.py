"""Seconds by phase of what runs while a profile is active; else `phase` and `count` do nothing."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Self

from torch.profiler import record_function

from rlhf.types import PromptBatch, Responses

OTHER = "other"  # the phase outside all phases
PHASES = {  # by name: the metric
    "vision": "time/vision",
    "prefill": "time/prefill",
    "decode": "time/decode",
    "old_logprobs": "time/old_logprobs",
    "values": "time/values",
    "ref_logprobs": "time/ref_logprobs",
    "scores": "time/scores",
    "advantages": "time/advantages",
    "forward": "time/forward",
    "backward": "time/backward",
    "optimizer": "time/optimizer",
    "save": "time/save",
    OTHER: "time/other",
}


@dataclass
class IterationTimes:
    """What lay between two calls of `lap`.

    Attributes:
        seconds: by phase; a phase inside another is not counted in that one.
        counts: what `count` was told.
    """

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


class Profile:
    """Where the time goes, a lap at a time.

    Args:
        wait: returns when the device has done what it was given; called where a phase begins or
            ends, so that each phase is charged with its own work.
        clock: seconds.
        on_lap: called with the number of laps done, outside all laps.

    Attributes:
        laps: those that are done.
    """

    def __init__(
        self,
        wait: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
        on_lap: Callable[[int], None] = lambda done: None,
    ) -> None:
        self._wait, self._clock, self._on_lap = wait, clock, on_lap
        self._phases, self._opaque_depth = [OTHER], 0
        self._lap, self._since = IterationTimes(), 0.0
        self.iterations: list[IterationTimes] = []

    @contextmanager
    def active(self) -> Iterator[Self]:
        """Inside the block this profile takes what `phase` and `count` tell."""
        self._wait()
        self._since = self._clock()
        token = _ACTIVE.set(self)
        try:
            yield self
        finally:
            _ACTIVE.reset(token)

    @contextmanager
    def phase(self, name: str, *, opaque: bool) -> Iterator[None]:
        """See the function `phase`."""
        if self._opaque_depth:
            yield
            return
        self._charge()
        self._phases.append(name)
        self._opaque_depth += opaque
        try:
            with record_function(name):  # names it in a trace
                yield
        finally:
            self._charge()
            self._phases.pop()
            self._opaque_depth -= opaque

    def count(self, name: str, amount: int) -> None:
        """See the function `count`."""
        if not self._opaque_depth:
            self._lap.counts[name] += amount

    def end_iteration(self) -> IterationTimes:
        """What was measured since the last lap; begins the next one."""
        self._charge()
        done, self._lap = self._lap, IterationTimes()
        self.iterations.append(done)
        self._on_lap(len(self.iterations))
        self._since = self._clock()
        return done

    def _charge(self) -> None:
        """The time since the last boundary belongs to the innermost phase."""
        self._wait()
        now = self._clock()
        self._lap.seconds[self._phases[-1]] += now - self._since
        self._since = now


_ACTIVE: ContextVar[Profile | None] = ContextVar("profile", default=None)
_NOTHING = nullcontext()


def phase(name: str, *, opaque: bool = False) -> AbstractContextManager[None]:
    """A block whose time counts as `name`.

    Args:
        name: one of PHASES.
        opaque: what the phases inside take and count is this one's, under its name.
    """
    profile = _ACTIVE.get()
    return profile.phase(name, opaque=opaque) if profile else _NOTHING


def count(name: str, amount: int = 1) -> None:
    """Add to what is counted, such as images that the vision tower reads."""
    if profile := _ACTIVE.get():
        profile.count(name, amount)


def count_responses(prompts: PromptBatch, responses: Responses) -> None:
    """Count what was generated, and the tokens whose keys and values decoding had to see.

    A response of R tokens takes R - 1 decoded ones, the t-th of which sees its prompt and t more:
    `seen_tokens`. `read_tokens` are the same with a prompt read once for all that continue it.
    """
    if not _ACTIVE.get():
        return
    lengths, steps = prompts.spans.lengths.tolist(), (responses.spans.lengths - 1).tolist()
    own = sum(t * (t + 1) // 2 for t in steps)
    seen = [t * length for t, length in zip(steps, lengths, strict=True)]
    once: dict[int, int] = {}  # by prompt, as often as its longest response sees it
    for key, tokens in zip(prompts.sampling_keys.tolist(), seen, strict=True):
        once[key] = max(once.get(key, 0), tokens)
    count("responses", len(lengths))
    count("prompt_tokens", sum(lengths))
    count("response_tokens", responses.spans.num_tokens)
    count("seen_tokens", own + sum(seen))
    count("read_tokens", own + sum(once.values()))


def end_iteration() -> dict[str, float]:
    """End a lap: its seconds by phase under their metrics' names; empty if no profile is active."""
    profile = _ACTIVE.get()
    seconds = profile.end_iteration().seconds if profile else {}
    return {PHASES[name]: value for name, value in seconds.items()}
