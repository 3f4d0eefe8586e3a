"""Judges that score responses, and the comparison of two models by a judge's outputs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Protocol

import torch

from rlhf.config.schema import SamplingConfig
from rlhf.data.collate import Record
from rlhf.data.microbatching import map_microbatches
from rlhf.demo.rule_judge import TIE_MARGIN, is_right, rule_score
from rlhf.generation.sampler import generate_shared
from rlhf.kernels import span_sum
from rlhf.models.llava import Llava
from rlhf.models.policy import Policy
from rlhf.parallel.world import ALONE, World
from rlhf.rewards.base import Scorer
from rlhf.tracking.console import track
from rlhf.types import PromptBatch, Responses


class Judge(Protocol):
    """Scores responses and, where it can tell, says which of them are correct.

    Attributes:
        name: names its metrics.
        tie_margin: two responses whose scores differ by less are tied.
    """

    name: str
    tie_margin: float

    def scores(self, records: Sequence[Record], responses: "ModelResponses") -> list[float]:
        """Return one score for each response, NaN where there is none; higher is better."""

    def correct(self, records: Sequence[Record], texts: Sequence[str]) -> list[bool] | None:
        """Return whether each text is a correct response; None when the judge cannot tell."""


@dataclass(frozen=True)
class ModelResponses:
    """The responses of one model to B prompts.

    Attributes:
        model: the name of the model.
        prompts: B prompts.
        responses: B responses, as tokens.
        texts: B responses, decoded.
    """

    model: str
    prompts: PromptBatch
    responses: Responses
    texts: list[str]


@dataclass(frozen=True)
class JudgeOutputs:
    """Outputs of one judge on the responses of one model to B prompts.

    Attributes:
        scores: B scores, NaN where there is none.
        correct: whether each response is correct; None when the judge cannot tell.
    """

    scores: list[float]
    correct: list[bool] | None


class ScorerJudge:
    """A judge by a scorer, such as a reward model. It cannot tell which responses are correct.

    Args:
        scorer: scores the responses.
        max_tokens: tokens that it scores at once.
    """

    tie_margin = 0.0

    def __init__(self, scorer: Scorer, *, max_tokens: int) -> None:
        self.name, self.scorer, self._max_tokens = scorer.name, scorer, max_tokens

    def scores(self, records: Sequence[Record], responses: ModelResponses) -> list[float]:
        """Return the scorer's score of each response."""
        scores = self.scorer.scores(
            responses.prompts, responses.responses, max_tokens=self._max_tokens
        )
        return [float(value) for value in scores]

    def correct(self, records: Sequence[Record], texts: Sequence[str]) -> list[bool] | None:
        """Return None: a score does not say whether a response is correct."""
        return None


class RuleJudge:
    """A judge by the published rule of the demo, for records with the facts of their image."""

    name, tie_margin = "rule", TIE_MARGIN

    def scores(self, records: Sequence[Record], responses: ModelResponses) -> list[float]:
        """Return the rule's score of each response, by the facts of its record."""
        pairs = zip(records, responses.texts, strict=True)
        return [rule_score(record, text) for record, text in pairs]

    def correct(self, records: Sequence[Record], texts: Sequence[str]) -> list[bool] | None:
        """Return whether each text names the facts of its record correctly."""
        pairs = zip(records, texts, strict=True)
        return [is_right(record, text) for record, text in pairs]


def generate_responses(
    llava: Llava,
    name: str,
    prompts: PromptBatch,
    sampling: SamplingConfig,
    *,
    seed: int = 0,
    world: World = ALONE,
) -> ModelResponses:
    """Generate a response to each prompt with the active adapter of a model.

    Args:
        llava: the model.
        name: what it is called.
        prompts: B prompts.
        sampling: temperature, top-p, length and batch size.
        seed: of the samples.
        world: the processes that share out the batches.
    """
    with track(f"responses of {name}", len(prompts)) as progress:
        responses = generate_shared(
            llava, prompts, sampling, world, seed=seed, on_chunk=progress.advance
        )
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
    world: World = ALONE,
) -> float:
    """Estimate KL(model ‖ baseline) in nats a response, at temperature 1.

    The mean over responses y ~ π of Σₜ log π(yₜ) - log π₀(yₜ), by one response to each prompt.

    Args:
        llava: the model π.
        baseline: the model π₀; it has the same vocabulary.
        prompts: B prompts.
        sampling: its temperature and filters do not apply.
        seed: of the samples.
        max_tokens: tokens evaluated at once.
        world: the processes that share out the batches.
    """
    unmodified = replace(sampling, temperature=1.0, top_k=0, top_p=1.0)
    responses = generate_shared(llava, prompts, unmodified, world, seed=seed)
    logprobs, baseline_logprobs = (
        map_microbatches(
            Policy(m, m, temperature=1.0).evaluate, prompts, responses, max_tokens, world=world
        ).logprobs
        for m in (llava, baseline)
    )
    return float(span_sum(logprobs - baseline_logprobs, responses.spans).mean())


def pairwise_outcomes(baseline: JudgeOutputs, model: JudgeOutputs, tie_margin: float) -> list[str]:
    """Compare the scores of two models' responses to the same prompts.

    Args:
        baseline: outputs of the judge on the first model's responses.
        model: its outputs on the other model's responses.
        tie_margin: scores that differ by less are tied.

    Returns:
        For each prompt `win`, `loss` or `tie` of the model, or `unscored` where a score is NaN.
    """
    outcomes = []
    for before, after in zip(baseline.scores, model.scores, strict=True):
        difference = after - before
        tied = abs(difference) < tie_margin or difference == 0
        decided = "tie" if tied else "win" if difference > 0 else "loss"
        outcomes.append("unscored" if isnan(difference) else decided)
    return outcomes


def comparison_metrics(
    baseline: JudgeOutputs, model: JudgeOutputs, tie_margin: float
) -> dict[str, float]:
    """Compute the win rate of a model, and how many wins and losses are due to correctness.

    Ties count half. A win or loss is by correctness if exactly one of both responses is correct,
    else by style; these counts are left out if the judge cannot tell what is correct.

    Args:
        baseline: outputs of the judge on the first model's responses.
        model: its outputs on the other model's responses.
        tie_margin: scores that differ by less are tied.
    """
    outcomes = pairwise_outcomes(baseline, model, tie_margin)
    unscored = outcomes.count("unscored")
    metrics = {
        "win_rate": (outcomes.count("win") + 0.5 * outcomes.count("tie"))
        / max(1, len(outcomes) - unscored),
        "wins": float(outcomes.count("win")),
        "losses": float(outcomes.count("loss")),
        "ties": float(outcomes.count("tie")),
        **({"unscored": float(unscored)} if unscored else {}),
    }
    if baseline.correct is None or model.correct is None:
        return metrics
    rows = list(zip(baseline.correct, model.correct, outcomes, strict=True))
    return metrics | {
        "wins_by_correctness": float(sum(after > before for before, after, _ in rows)),
        "losses_by_correctness": float(sum(after < before for before, after, _ in rows)),
        "wins_by_style": float(sum(after == before and x == "win" for before, after, x in rows)),
        "losses_by_style": float(sum(after == before and x == "loss" for before, after, x in rows)),
        "accuracy_before": sum(baseline.correct) / len(outcomes),
        "accuracy_after": sum(model.correct) / len(outcomes),
    }
