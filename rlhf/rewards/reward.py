"""Rewards as a user names them in Python: functions, saved reward models, and weighted sums."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from rlhf.config.schema import ScorerConfig
from rlhf.errors import UsageError
from rlhf.models.llava import Llava
from rlhf.rewards.base import RewardModel, Scorer
from rlhf.rewards.combined import CombinedScorer
from rlhf.rewards.external.python_function import FunctionScorer
from rlhf.rewards.held_out import learnt_from_same_pairs, not_held_out, refuse_same_model
from rlhf.rewards.loading import load_reward_model
from rlhf.rewards.reward_card import RewardCard
from rlhf.tracking.console import say

Function = Callable[[list[Path], list[str], list[str]], Sequence[float] | Any]


class Reward(ABC):
    """A reward that becomes a scorer when the model is known whose responses it scores.

    Rewards are added and multiplied by numbers: `0.7 * helpful + 0.3 * brief`. Each part of a sum
    logs its mean as `scores/<name>`, before its weight.

    Attributes:
        name: of its curve and in tables: letters, digits, `_`, `.` and `-`.
    """

    name: str

    @abstractmethod
    def scorer(self, model: Llava, *, share_base_model: bool = False) -> Scorer:
        """Return the scorer of the responses of a model.

        Args:
            model: the model whose responses are scored.
            share_base_model: a reward model may run as an adapter on `model`'s base model; only
                valid if the base weights of `model` are not trained.
        """

    def __mul__(self, weight: float) -> "WeightedRewards":
        """Multiply its scores by a number."""
        return WeightedRewards([(weight, self)])

    __rmul__ = __mul__

    def __add__(self, other: "Reward") -> "WeightedRewards":
        """Add the scores of another reward."""
        return WeightedRewards([*(1.0 * self).parts, *(1.0 * other).parts])

    def __radd__(self, start: int) -> "WeightedRewards":
        """Begin a sum, so that `sum(rewards)` works."""
        return 1.0 * self


class RewardFunction(Reward):
    """A Python function as a reward: it scores images, instructions and responses.

    It is called with three lists of equal length, at most 16: the images' paths (`rlhf.load_image`
    opens one as the model sees it), the instructions, and the responses as text. It returns one
    real number for each response.

    Args:
        function: the function; a method or any other callable too.
        name: of its curve; empty: the function's name.
        on_failure: what follows when a response has no score, because the function raises or
            returns no finite number: `stop` ends the run, `drop` leaves the response out.

    Raises:
        UsageError: the name has other characters.
    """

    def __init__(
        self, function: Function, name: str = "", *, on_failure: Literal["stop", "drop"] = "stop"
    ) -> None:
        own_name = getattr(function, "__name__", type(function).__name__)
        self.function, self.on_failure = function, on_failure
        self.name = _checked_name(name or own_name.strip("<>"))

    def scorer(self, model: Llava, *, share_base_model: bool = False) -> FunctionScorer:
        """Return the scorer that calls the function with the decoded responses of a model."""
        config = ScorerConfig(on_failure=self.on_failure)
        return FunctionScorer(self.function, self.name, model.builder, config)


class SavedReward(Reward):
    """A trained reward model in its directory, loaded when the model is known that it scores.

    Args:
        path: directory of a reward model, or of the run that trained it.
        name: of its curve.
        captions: captions besides those of training, by the SHA-256 of the image's bytes.
        base: directory or hub id of the base model, if it is no longer where it was in training.

    Raises:
        UsageError: there is no reward model.
    """

    def __init__(
        self,
        path: str | Path,
        name: str = "reward",
        *,
        captions: Mapping[str, str] | None = None,
        base: str = "",
    ) -> None:
        RewardCard.read(str(path))  # fails before a model loads
        self.path, self.name = str(path), _checked_name(name)
        self.captions, self.base = captions, base

    def scorer(self, model: Llava, *, share_base_model: bool = False) -> RewardModel:
        """Load the reward model to score the responses of a model."""
        return load_reward_model(
            self.path,
            model,
            share_base_model=share_base_model,
            captions=self.captions,
            base_override=self.base,
        )


class WeightedRewards(Reward):
    """A weighted sum of rewards, as `0.7 * a + 0.3 * b` makes it.

    Args:
        parts: weight and reward of each part.

    Raises:
        UsageError: two parts have one name, or a weight is no finite number.
    """

    def __init__(self, parts: Sequence[tuple[float, Reward]]) -> None:
        self.parts: list[tuple[float, Reward]] = []
        for weight, reward in parts:
            inner = reward.parts if isinstance(reward, WeightedRewards) else [(1.0, reward)]
            self.parts += [(_checked_weight(weight, reward) * w, part) for w, part in inner]
        names = [part.name for _, part in self.parts]
        if len(set(names)) < len(names):
            fix = "give them names: rlhf.RewardFunction(function, name=…)"
            raise UsageError("two rewards of a sum have one name", ", ".join(names), fix)
        self.name = "+".join(names)

    def scorer(self, model: Llava, *, share_base_model: bool = False) -> CombinedScorer:
        """Return the scorer that adds up those of the parts."""
        scorers = {
            part.name: part.scorer(model, share_base_model=share_base_model)
            for _, part in self.parts
        }
        return CombinedScorer(scorers, {part.name: weight for weight, part in self.parts})


def load_reward(path: str | Path, name: str = "reward", *, base: str = "") -> SavedReward:
    """Find a trained reward model, to train or evaluate with.

    Its weights are loaded when a trainer or `rlhf.evaluate` knows whose responses it scores; it
    shares the base model of a policy that trains a LoRA on the same one.

    Args:
        path: directory of a reward model, or of the run that trained it.
        name: of its curve in a weighted sum.
        base: directory or hub id of its base model, if it is no longer where it was in training.

    Raises:
        UsageError: there is no reward model.
    """
    return SavedReward(path, name, base=base)


def as_scorer(reward: Reward | Scorer, model: Llava, *, share_base_model: bool) -> Scorer:
    """Return the scorer of a reward; a scorer as it is.

    Args:
        reward: a reward or a scorer.
        model: the model whose responses are scored.
        share_base_model: see `Reward.scorer`.
    """
    if isinstance(reward, Reward):
        return reward.scorer(model, share_base_model=share_base_model)
    return reward


def as_judge(
    judge: Reward | Scorer | None,
    reward: Reward | Scorer,
    model: Llava,
    *,
    share_base_model: bool,
) -> Scorer | None:
    """Return the scorer of a held-out judge; None if there is no judge.

    Args:
        judge: a reward or a scorer that training does not read.
        reward: what training reads.
        model: the model whose responses are scored.
        share_base_model: see `Reward.scorer`.

    Raises:
        UsageError: the judge is the reward or a part of it.
    """
    if judge is None:
        return None
    for part in _parts(judge):
        for trained in _parts(reward):
            _check_held_out(part, trained)
    return as_scorer(judge, model, share_base_model=share_base_model)


def _parts(reward: Reward | Scorer) -> Sequence[Reward | Scorer]:
    """List the rewards of a sum; one that is no sum by itself."""
    if isinstance(reward, WeightedRewards):
        return [part for _, part in reward.parts]
    return [reward]


def _check_held_out(judge: Reward | Scorer, reward: Reward | Scorer) -> None:
    """Refuse a judge that is the reward; say it if both learnt from the same pairs."""
    if isinstance(judge, SavedReward) and isinstance(reward, SavedReward):
        refuse_same_model(judge.path, reward.path)
        if learnt_from_same_pairs(judge.path, reward.path):
            text = "the judge learnt from the same pairs as the reward model, and shares its errors"
            say(text, "yellow")
    functions = [x.function for x in (judge, reward) if isinstance(x, RewardFunction)]
    if judge is reward or (len(functions) == 2 and functions[0] == functions[1]):
        raise not_held_out(judge.name)


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+", name):
        fix = "use letters, digits, _, . and -"
        raise UsageError("this is no name of a reward", repr(name), fix)
    return name


def _checked_weight(weight: float, reward: Reward) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not isfinite(weight):
        raise UsageError("a weight must be a finite number", f"{weight!r} * {reward.name}", "")
    return weight
