"""Health warnings of a PPO run, each with its likely cause and a fix."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from statistics import fmean, pstdev
from typing import Any

# name | condition | likely cause | fix. A limit is absolute, or in units of the mean over the first
# five updates (`first`). `sd` compares the mean over the last five updates with that of the first
# five, in standard deviations; `best` compares it with the highest mean of five so far, in standard
# deviations around the trend. `updates` counts from 0, `warm` from the end of critic warm-up.
_TABLE = """
KL at start | updates < 1 and objective/kl > 0.001 | reference differs | use one adapter and dtype
first ratio | val/first_step_ratio_gap > 0.01 | old logprobs differ | set recompute_logprobs=true
negative KL | objective/kl < -0.1 | sampling and training differ | check temperature and banned ids
KL explosion | objective/kl > 25 | the reward pulls too hard | lower lr or raise kl_coef
clipping | policy/clipfrac_avg > 0.3 | steps too long | lower lr or ppo_epochs
approximate KL | policy/approxkl_avg > 0.1 | an update goes too far | lower lr or set target_kl
useless critic | updates > 8 and warm > 0 and val/explained_variance_pooled < 0 | \
predicts no better than a constant | use critic_fit=ridge, critic=shared_detached
value divergence | loss/value_avg > 30 first | the critic overshoots | lower its lr
few EOS | tokens/eos_rate < 0.7 first | responses run on and are cut | raise the missing-EOS penalty
no EOS | updates < 5 and tokens/eos_rate < 1e-9 | none ends | check its end, raise max_new_tokens
long responses | tokens/responses_len_mean > 1.5 first | the reward likes length | raise kl_coef
short responses | tokens/responses_len_mean < 0.2 first | the reward likes brevity | raise kl_coef
repeated words | text/rep4 > 0.5 | the reward likes repetition | raise kl_coef, read the samples
repeated text | text/zlib_ratio > 3 | the reward likes repetition | raise kl_coef, read the samples
same responses | text/distinct < 0.1 | images make no difference | raise kl_coef, check the images
constant score | objective/scores_std < 1e-4 | blind reward model | check its input and accuracy
entropy collapse | policy/entropy_avg < 0.1 first | no exploration left | raise ent_coef or kl_coef
skipped steps | optim/skipped_steps > 0 | loss or gradient not finite | lower lr, train in float32
reward hacking | objective/scores > 2 sd and objective/rlhf_reward < -2 sd | drift | raise kl_coef
over-optimization | updates > 13 and val/judge_scores < -3 best and objective/scores > -1 best | \
the score is pleased, the judge is not | stop here, raise kl_coef or retrain the reward model
blind responses | vision/grounding_gap < 0.01 | the image is ignored | check the images, the SFT
no policy gradient | warm > 0 and optim/grad_norm_policy < 1e-12 | frozen or detached | unfreeze
no critic gradient | optim/grad_norm_critic < 1e-12 | frozen or detached | check what is frozen
"""


@dataclass(frozen=True)
class Rule:
    """One health rule, a line of the table.

    Attributes:
        name: shown in the warning.
        condition: comparisons of metrics with limits, joined by `and`.
        cause: usual cause of the condition.
        fix: what to change.
    """

    name: str
    condition: str
    cause: str
    fix: str

    @property
    def comparisons(self) -> list[list[str]]:
        """Words of each comparison: metric, sign, limit, and optionally the unit."""
        return [comparison.split() for comparison in self.condition.split(" and ")]


RULES = tuple(Rule(*line.split(" | ")) for line in _TABLE.strip().splitlines())
WINDOW = 5  # updates in a mean, and checks that decide whether a warning starts or ends
MIN_BREACHES = 3  # broken checks among the last WINDOW that start a warning
# Metrics that a rule compares with their own earlier updates.
RELATIVE_METRICS = frozenset(
    name for rule in RULES for name, _, _, *unit in rule.comparisons if unit
)


@dataclass(frozen=True)
class HealthWarning(Rule):
    """A rule whose condition holds, and the metrics that it read.

    Attributes:
        step: iterations done when the warning began.
        metrics: values of the metrics in the condition.
    """

    step: int
    metrics: dict[str, float]

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:.3g}" for name, value in self.metrics.items())
        return f"{self.name} at step {self.step} ({values}): {self.cause}; {self.fix}."


class HealthMonitor:
    """Checks every rule at each update and warns when it is broken in 3 of the last 5 updates.

    A rule warns once; it can warn a second time only after five consecutive updates that do not
    break it. A rule whose metrics are missing is not checked.

    Args:
        warmup: updates before the critic's rules apply.
    """

    def __init__(self, warmup: int = 5) -> None:
        self.warmup, self.updates = warmup, 0
        self._first: dict[str, list[float]] = {}  # metric: its first WINDOW values
        self._last: dict[str, list[float]] = {}  # metric: its last WINDOW values
        self._best: dict[str, float] = {}  # metric: its highest mean over WINDOW updates
        self._changes: dict[str, list[float]] = {}  # metric: Σ (change)² of updates, their count
        self._breaches: dict[str, list[bool]] = {}  # rule: whether it was broken, last WINDOW times
        self._firing: dict[str, bool] = {}  # rule: whether its warning has begun and not ended

    def update(self, step: int, metrics: Mapping[str, float]) -> list[HealthWarning]:
        """Check the metrics of one PPO update and return the warnings that start with it.

        Args:
            step: iterations done, shown in the warnings.
            metrics: metrics of the update, by name.
        """
        self._remember(metrics)
        values = {"updates": self.updates, "warm": self.updates + 1 - self.warmup, **metrics}
        warnings = []
        for rule in RULES:
            if self._begins(rule, values):
                read = {name: metrics[name] for name, *_ in rule.comparisons if name in metrics}
                warnings.append(HealthWarning(**vars(rule), step=step, metrics=read))
        self.updates += 1
        return warnings

    @property
    def healthy(self) -> bool:
        """Whether no rule was broken in the last five updates."""
        return not any(any(breaches) for breaches in self._breaches.values())

    def state_dict(self) -> dict[str, Any]:
        """Number of updates and the history of metrics and rules, as JSON."""
        history = {
            "first": self._first,
            "last": self._last,
            "best": self._best,
            "changes": self._changes,
            "breaches": self._breaches,
            "firing": self._firing,
        }
        return {"updates": self.updates, **deepcopy(history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        state = deepcopy(dict(state))
        self.updates = state["updates"]
        self._first, self._last = state["first"], state["last"]
        self._best, self._changes = state["best"], state["changes"]
        self._breaches, self._firing = state["breaches"], state["firing"]

    def _remember(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if name in RELATIVE_METRICS and isfinite(value):
                self._remember_value(name, value)

    def _remember_value(self, name: str, value: float) -> None:
        before = self._last.get(name, [])
        self._last[name] = last = [*before, value][-WINDOW:]
        if len(self._first.get(name, [])) < WINDOW:
            self._first[name] = last
        if before:
            total, count = self._changes.get(name, [0.0, 0])
            self._changes[name] = [total + (value - before[-1]) ** 2, count + 1]
        if len(last) == WINDOW:
            self._best[name] = max(self._best.get(name, -inf), fmean(last))

    def _sd(self, name: str) -> float:
        """Standard deviation σ of an update around its trend: E (xₜ - xₜ₋₁)² = 2σ² + trend².

        Source: von Neumann, Kent, Bellinson, Hart 1941, The mean square successive difference.
        """
        total, count = self._changes[name]
        return sqrt(total / (2 * count))

    def _begins(self, rule: Rule, values: Mapping[str, float]) -> bool:
        """Check a rule and record the result; whether its warning starts now."""
        if any(name not in values for name, *_ in rule.comparisons):
            return False
        broken = all(self._holds(values, *comparison) for comparison in rule.comparisons)
        breaches = [*self._breaches.get(rule.name, []), broken][-WINDOW:]
        enough = sum(breaches) >= (1 if "updates < 1" in rule.condition else MIN_BREACHES)
        firing = self._firing.get(rule.name, False)
        self._breaches[rule.name] = breaches
        self._firing[rule.name] = any(breaches) if firing else enough
        return enough and not firing

    def _holds(
        self, values: Mapping[str, float], name: str, sign: str, limit: str, unit: str = ""
    ) -> bool:
        """Whether one comparison of a rule holds; False before WINDOW values are known."""
        value, bound, first = values[name], float(limit), self._first.get(name, [])
        if unit and len(first) < WINDOW:
            return False
        if unit == "first":
            bound *= fmean(first)
        elif unit == "sd":
            value = fmean(self._last[name])
            bound = fmean(first) + bound * pstdev(first)
        elif unit == "best":
            value = fmean(self._last[name])
            bound = self._best[name] + bound * self._sd(name)
        return value > bound if sign == ">" else value < bound
