"""Warnings about a PPO run going wrong, each with its likely cause and what to change."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, pstdev
from typing import Any

# name | predicate | likely cause | what to change. A bound stands alone, or in units of the mean
# over the first five updates (`first`); `sd` compares the mean over the last five with it, in
# standard deviations. `updates` counts from 0, `warm` from the end of the critic's warm-up.
_TABLE = """
KL at start | updates < 1 and objective/kl > 0.001 | reference differs | use one adapter and dtype
first ratio | val/first_step_ratio_gap > 0.01 | old logprobs of another forward | set rescore=true
negative KL | objective/kl < -0.1 | sampling and scoring differ | check temperature and banned ids
KL explosion | objective/kl > 25 | the reward pulls too hard | lower lr or raise kl_coef
clipping | policy/clipfrac_avg > 0.3 | steps too long | lower lr or ppo_epochs
approximate KL | policy/approxkl_avg > 0.1 | an update goes too far | lower lr or set target_kl
useless critic | warm > 0 and val/explained_variance < -2 | worse than a constant | raise its lr
value divergence | loss/value_avg > 30 first | the critic overshoots | lower its lr
few EOS | tokens/eos_rate < 0.7 first | answers run on and are cut | raise the missing-EOS penalty
long answers | tokens/responses_len_mean > 1.5 first | the reward likes length | raise kl_coef
short answers | tokens/responses_len_mean < 0.2 first | the reward likes brevity | raise kl_coef
repeated words | text/rep4 > 0.5 | the reward likes repetition | raise kl_coef, read the samples
repeated text | text/zlib_ratio > 3 | the reward likes repetition | raise kl_coef, read the samples
same answers | text/distinct < 0.1 | images make no difference | raise kl_coef, check the images
constant score | objective/scores_std < 1e-4 | blind reward model | check its input and accuracy
entropy collapse | policy/entropy_avg < 0.1 first | no exploration left | raise ent_coef or kl_coef
skipped steps | optim/skipped_steps > 0 | loss or gradient not finite | lower lr, train in float32
reward hacking | objective/scores > 2 sd and objective/rlhf_reward < -2 sd | drift | raise kl_coef
blind answers | vision/grounding_gap < 0.01 | answers ignore the image | check the images, the SFT
no policy gradient | warm > 0 and optim/grad_norm_policy < 1e-12 | frozen or detached | unfreeze
no critic gradient | optim/grad_norm_critic < 1e-12 | frozen or detached | check what is frozen
"""


@dataclass(frozen=True)
class Rule:
    """One line of the table."""

    name: str
    predicate: str
    cause: str
    change: str


RULES = tuple(Rule(*line.split(" | ")) for line in _TABLE.strip().splitlines())
_CLAUSES = [x.split() for rule in RULES for x in rule.predicate.split(" and ")]
COMPARED = frozenset(name for name, _, _, *unit in _CLAUSES if unit)  # with the first updates


@dataclass(frozen=True)
class HealthWarning(Rule):  # the builtin is another thing
    """A rule that fired, and the metrics it read."""

    step: int
    metrics: dict[str, float]

    def __str__(self) -> str:
        cited = ", ".join(f"{name} {value:.3g}" for name, value in self.metrics.items())
        return f"{self.name} at step {self.step} ({cited}): {self.cause}; {self.change}."


class HealthMonitor:
    """Lets every rule vote on each update and warns when 3 of its last 5 votes agree.

    Once an episode: a rule is armed again after five calm votes. A rule whose metrics are missing
    does not vote. `warmup` is the number of updates before the critic is judged.
    """

    def __init__(self, warmup: int = 5) -> None:
        self.warmup, self.updates = warmup, 0
        self._past: dict[str, dict[str, Any]] = {"first": {}, "last": {}, "votes": {}, "firing": {}}

    def update(self, step: int, metrics: Mapping[str, float]) -> list[HealthWarning]:
        """Take the metrics of one PPO update; returns the warnings that begin with it."""
        for name, value in metrics.items():
            if name in COMPARED and isfinite(value):
                kept = self._remember("last", name, value)
                if len(self._past["first"].get(name, [])) < 5:
                    self._past["first"][name] = kept
        seen = {"updates": self.updates, "warm": self.updates + 1 - self.warmup, **metrics}
        warnings = []
        for rule in RULES:
            if self._begins(rule, seen):
                cited = {name: metrics[name] for name in rule.predicate.split() if name in metrics}
                warnings.append(HealthWarning(**vars(rule), step=step, metrics=cited))
        self.updates += 1
        return warnings

    @property
    def calm(self) -> bool:
        """Whether no rule found anything in the last five updates."""
        return not any(any(votes) for votes in self._past["votes"].values())

    def state_dict(self) -> dict[str, Any]:
        """Votes and history, as JSON."""
        return {"updates": self.updates, "past": deepcopy(self._past)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`."""
        self.updates, self._past = state["updates"], deepcopy(state["past"])

    def _remember(self, kind: str, name: str, value: float) -> list[float]:
        kept: list[float] = [*self._past[kind].get(name, []), value][-5:]
        self._past[kind][name] = kept
        return kept

    def _begins(self, rule: Rule, seen: Mapping[str, float]) -> bool:
        clauses = [clause.split() for clause in rule.predicate.split(" and ")]
        if any(name not in seen for name, *_ in clauses):
            return False
        votes = self._remember("votes", rule.name, all(self._holds(seen, *x) for x in clauses))
        agreed = sum(votes) >= (1 if "updates" in rule.predicate else 3)
        firing = self._past["firing"].get(rule.name, False)
        self._past["firing"][rule.name] = any(votes) if firing else agreed
        return agreed and not firing

    def _holds(
        self, seen: Mapping[str, float], name: str, sign: str, bound: str, unit: str = ""
    ) -> bool:
        value, limit, first = seen[name], float(bound), self._past["first"].get(name, [])
        if unit and len(first) < 5:
            return False
        if unit == "first":
            limit *= fmean(first)
        elif unit == "sd":
            value = fmean(self._past["last"][name])
            limit = fmean(first) + limit * pstdev(first)
        return value > limit if sign == ">" else value < limit
