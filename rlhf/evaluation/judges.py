"""Answers of several models to the same prompts, judged and compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Protocol

import torch

from rlhf.config.schema import SamplingConfig
from rlhf.data.collate import Record
from rlhf.data.microbatching import map_microbatches
from rlhf.demo.rule_judge import TIE_MARGIN, is_right, rule_score
from rlhf.generation.sampler import generate
from rlhf.kernels import span_sum
from rlhf.models.llava import Llava
from rlhf.models.policy import Policy
from rlhf.rewards.base import Scorer
from rlhf.tracking.console import track
from rlhf.types import PromptBatch, Responses


class Judge(Protocol):
    """Gives each answer a number, and where it can tell, whether the answer is right."""

    name: str
    tie_margin: float  # a smaller difference of scores is a tie

    def scores(self, records: Sequence[Record], responses: "ModelResponses") -> list[float]:
        """One score for each answer; higher is better."""

    def right(self, records: Sequence[Record], texts: Sequence[str]) -> list[bool] | None:
        """Whether each answer is right; None when the judge does not know."""


@dataclass(frozen=True)
class ModelResponses:
    """A model's answers to B prompts."""

    model: str
    prompts: PromptBatch
    responses: Responses
    texts: list[str]


@dataclass(frozen=True)
class Verdicts:
    """What a judge says of a model's answers."""

    scores: list[float]
    right: list[bool] | None


class ScorerJudge:
    """A scorer as judge: a reward model, or what a person brings along. It knows no right."""

    tie_margin = 0.0

    def __init__(self, scorer: Scorer, *, max_tokens: int) -> None:
        self.name, self._scorer, self._max_tokens = scorer.name, scorer, max_tokens

    def scores(self, records: Sequence[Record], responses: ModelResponses) -> list[float]:
        found = self._scorer.scores(
            responses.prompts, responses.responses, max_tokens=self._max_tokens
        )
        return [float(value) for value in found]

    def right(self, records: Sequence[Record], texts: Sequence[str]) -> list[bool] | None:
        return None


class RuleJudge:
    """The published rule of the demo as judge, on records that carry the facts of their image."""

    name, tie_margin = "rule", TIE_MARGIN

    def scores(self, records: Sequence[Record], responses: ModelResponses) -> list[float]:
        """One score for each response by the rule, which reads the facts of its record."""
        pairs = zip(records, responses.texts, strict=True)
        return [rule_score(record, text) for record, text in pairs]

    def right(self, records: Sequence[Record], texts: Sequence[str]) -> list[bool] | None:
        """Whether each text names the facts of its record correctly."""
        pairs = zip(records, texts, strict=True)
        return [is_right(record, text) for record, text in pairs]


def generate_responses(
    llava: Llava, name: str, prompts: PromptBatch, sampling: SamplingConfig, *, seed: int = 0
) -> ModelResponses:
    """The answers of a model's active adapter."""
    with track(f"answers of {name}", len(prompts)) as progress:
        responses, _ = generate(llava, prompts, sampling, seed=seed, on_chunk=progress.advance)
    texts = [llava.builder.decode(row) for row in responses.rows()]
    return ModelResponses(name, prompts, responses, texts)


@torch.no_grad()
def kl_divergence(
    llava: Llava,
    baseline: Llava,
    prompts: PromptBatch,
    sampling: SamplingConfig,
    *,
    seed: int,
    max_tokens: int,
) -> float:
    """KL(model ‖ baseline), nats per response, by one sample per prompt at temperature 1.

    mean over responses of Σₜ log π(yₜ) - log π₀(yₜ),  y ~ π
    """
    pure = SamplingConfig(max_new_tokens=sampling.max_new_tokens, batch_size=sampling.batch_size)
    responses, _ = generate(llava, prompts, pure, seed=seed)
    own, base = (
        map_microbatches(
            Policy(m, m, temperature=1.0).evaluate, prompts, responses, max_tokens
        ).logprobs
        for m in (llava, baseline)
    )
    return float(span_sum(own - base, responses.spans).mean())


def outcomes(before: Verdicts, after: Verdicts, tie_margin: float) -> list[str]:
    """`win`, `loss` or `tie` of each answer after against that before; or `unscored`."""
    names = []
    for old, new in zip(before.scores, after.scores, strict=True):
        difference = new - old
        tied = abs(difference) < tie_margin or difference == 0
        decided = "tie" if tied else "win" if difference > 0 else "loss"
        names.append("unscored" if isnan(difference) else decided)
    return names


def comparison_metrics(before: Verdicts, after: Verdicts, tie_margin: float) -> dict[str, float]:
    """Win rate (ties count half) and, where the judge can tell, wins by being right and by style.

    A win or loss is by correctness when just one of the two answers is right, else by style.
    """
    results = outcomes(before, after, tie_margin)
    judged = max(1, len(results) - results.count("unscored"))
    metrics = {
        "win_rate": (results.count("win") + 0.5 * results.count("tie")) / judged,
        "wins": float(results.count("win")),
        "losses": float(results.count("loss")),
        "ties": float(results.count("tie")),
        **({"unscored": float(unscored)} if (unscored := results.count("unscored")) else {}),
    }
    if before.right is None or after.right is None:
        return metrics
    pairs = list(zip(before.right, after.right, results, strict=True))
    return metrics | {
        "wins_by_correctness": float(sum(new > old for old, new, _ in pairs)),
        "losses_by_correctness": float(sum(new < old for old, new, _ in pairs)),
        "wins_by_style": float(sum(new == old and won == "win" for old, new, won in pairs)),
        "losses_by_style": float(sum(new == old and won == "loss" for old, new, won in pairs)),
        "accuracy_before": sum(before.right) / len(results),
        "accuracy_after": sum(after.right) / len(results),
    }
