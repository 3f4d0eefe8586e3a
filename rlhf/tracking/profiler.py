"""Measure the seconds of each phase of an iteration, while a profile is active."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Self

from torch.profiler import record_function

from rlhf.tracking.activity import working
from rlhf.types import PromptBatch, Responses

OTHER = "other"  # the time outside all phases
PHASES = {  # phase: metric
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
TITLES = {  # of phases whose name does not say enough
    "prefill": "reading prompts",
    "decode": "sampling",
    "vision": "vision tower",
    "old_logprobs": "log-probabilities of the policy",
    "ref_logprobs": "log-probabilities of the reference",
    OTHER: "logging",
    "save": "saving",
}


@dataclass
class IterationTimes:
    """Seconds and counts of one iteration.

    Attributes:
        seconds: by phase; the time of a nested phase is not part of the enclosing phase.
        counts: sums of what `count` added, by name.
    """

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


class Profile:
    """Measures the seconds of each phase, one iteration after another.

    Args:
        wait: blocks until the device has done its queued work; called where a phase begins or ends,
            so that each phase is charged with its own work.
        clock: returns seconds.
        on_iteration: called with the number of iterations done, at the end of each; its own
            time is not counted.

    Attributes:
        iterations: the times of the iterations done.
    """

    def __init__(
        self,
        wait: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
        on_iteration: Callable[[int], None] = lambda done: None,
    ) -> None:
        self._wait, self._clock, self._on_iteration = wait, clock, on_iteration
        self._phases, self._opaque_depth = [OTHER], 0
        self._current, self._last_boundary = IterationTimes(), 0.0
        self.iterations: list[IterationTimes] = []

    @contextmanager
    def active(self) -> Iterator[Self]:
        """Make this the profile that the functions `phase` and `count` of this module report to."""
        self._wait()
        self._last_boundary = self._clock()
        token = _ACTIVE.set(self)
        try:
            yield self
        finally:
            _ACTIVE.reset(token)

    @contextmanager
    def phase(self, name: str, *, opaque: bool) -> Iterator[None]:
        """Charge the time of the block to the phase `name`.

        Args:
            name: one of PHASES.
            opaque: phases inside the block are charged to this one, and their counts are dropped.
        """
        if self._opaque_depth:
            yield
            return
        self._add_elapsed()
        self._phases.append(name)
        self._opaque_depth += opaque
        try:
            with record_function(name):  # the block's name in a trace
                yield
        finally:
            self._add_elapsed()
            self._phases.pop()
            self._opaque_depth -= opaque

    def count(self, name: str, amount: int) -> None:
        """Add `amount` to the iteration's count `name`, unless an opaque phase is running."""
        if not self._opaque_depth:
            self._current.counts[name] += amount

    def end_iteration(self) -> IterationTimes:
        """Return the times of the iteration that ends here, and begin the next one."""
        self._add_elapsed()
        ended, self._current = self._current, IterationTimes()
        self.iterations.append(ended)
        self._on_iteration(len(self.iterations))
        self._last_boundary = self._clock()
        return ended

    def _add_elapsed(self) -> None:
        """Charge the time since the last boundary to the innermost phase."""
        self._wait()
        now = self._clock()
        self._current.seconds[self._phases[-1]] += now - self._last_boundary
        self._last_boundary = now


_ACTIVE: ContextVar[Profile | None] = ContextVar("profile", default=None)


@contextmanager
def phase(name: str, *, opaque: bool = False) -> Iterator[None]:
    """Name what the block does, and charge its time to a phase of the active profile, if any.

    Args:
        name: one of PHASES.
        opaque: phases inside the block are charged to this one, and their counts are dropped.
    """
    profile = _ACTIVE.get()
    timed = profile.phase(name, opaque=opaque) if profile else nullcontext()
    with working(TITLES.get(name, name)), timed:
        yield


def count(name: str, amount: int = 1) -> None:
    """Add to a count of the active profile, such as the images that the vision tower reads."""
    if profile := _ACTIVE.get():
        profile.count(name, amount)


def count_responses(prompts: PromptBatch, responses: Responses) -> None:
    """Count what was generated, and the tokens whose keys and values decoding attended to.

    A response of R tokens takes R - 1 decoding steps, the t-th of which attends to its prompt and
    to t tokens more: `seen_tokens`. `read_tokens` counts a prompt shared by several responses once
    a step: what a kernel has to read that reads the prompt's cache once for all of them.

    Args:
        prompts: B prompts.
        responses: one to each prompt.
    """
    if not _ACTIVE.get():
        return
    lengths, steps = prompts.spans.lengths.tolist(), (responses.spans.lengths - 1).tolist()
    suffix_tokens = sum(t * (t + 1) // 2 for t in steps)
    prompt_tokens = [t * length for t, length in zip(steps, lengths, strict=True)]
    shared: dict[int, int] = {}  # by prompt: as often as its longest response attends to it
    for key, tokens in zip(prompts.sampling_keys.tolist(), prompt_tokens, strict=True):
        shared[key] = max(shared.get(key, 0), tokens)
    count("responses", len(lengths))
    count("prompt_tokens", sum(lengths))
    count("response_tokens", responses.spans.num_tokens)
    count("seen_tokens", suffix_tokens + sum(prompt_tokens))
    count("read_tokens", suffix_tokens + sum(shared.values()))


def end_iteration() -> dict[str, float]:
    """End an iteration of the active profile.

    Returns:
        Its seconds by phase under the names of their metrics; empty without an active profile.
    """
    profile = _ACTIVE.get()
    seconds = profile.end_iteration().seconds if profile else {}
    return {PHASES[name]: value for name, value in seconds.items()}
