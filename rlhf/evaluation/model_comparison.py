"""Several models' answers to the same prompts, each set against the first model's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan, log, nan
from typing import Any

import torch

from rlhf.config.schema import SamplingConfig
from rlhf.data.collate import Record
from rlhf.data.records import PreferenceRecord
from rlhf.data.tokenization import with_images
from rlhf.data.validation.agreement import wilson_interval
from rlhf.evaluation.judges import (
    Judge,
    ModelResponses,
    Verdicts,
    generate_responses,
    kl_divergence,
)
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.tracking.text_metrics import text_statistics
from rlhf.types import PromptBatch


@dataclass(frozen=True)
class ModelResult:
    """A model in a comparison.

    Attributes:
        verdicts: of each judge, the first of them decides.
        blind: of each judge on the answers to other images.
        kl: to the first model, nats a response; NaN if it cannot be told.
    """

    name: str
    responses: ModelResponses
    verdicts: list[Verdicts]
    blind: list[Verdicts]
    kl: float

    @property
    def texts(self) -> list[str]:
        return self.responses.texts


@dataclass(frozen=True)
class Comparison:
    """What all models of a comparison have in common."""

    records: Sequence[Record]
    prompts: PromptBatch
    judges: Sequence[Judge]
    baseline: Llava
    sampling: SamplingConfig
    seed: int
    max_tokens: int

    def entry(self, name: str, llava: Llava) -> ModelResult:
        """A model's answers, to these images and to others', judged."""
        responses = self._response(llava, name, self.prompts)
        others = with_images(self.prompts, self.prompts.mismatched_images(), llava.builder)
        blind = self._response(llava, f"{name}, another image", others)
        blind = replace(blind, prompts=self.prompts)  # judged by what they should have seen
        kl = 0.0 if llava is self.baseline else self._kl(llava)
        return ModelResult(name, responses, self._judged(responses), self._judged(blind), kl)

    def best_of(self, name: str, judge: Judge, n: int) -> ModelResult:
        """Of n samples of the first model to each prompt the one that the judge scores highest.

        Its KL is the bound log n - (n - 1)/n (Beirami et al. 2024, arXiv:2401.01879).
        """
        rows = torch.arange(len(self.prompts)).repeat_interleave(n)
        samples = torch.arange(n).repeat(len(self.prompts))
        warm = replace(self.sampling, temperature=self.sampling.temperature or 1.0)
        repeated = self.prompts.select(rows)
        found, _ = generate(self.baseline, repeated, warm, seed=self.seed, samples=samples)
        texts = [self.baseline.builder.decode(row) for row in found.rows()]
        scores = judge.scores(
            [self.records[row] for row in rows], ModelResponses(name, repeated, found, texts)
        )
        filled = torch.tensor(scores).nan_to_num(nan=-torch.inf).view(-1, n)
        best = filled.argmax(1) + torch.arange(len(self.prompts)) * n
        chosen = [texts[place] for place in best.tolist()]
        responses = ModelResponses(name, self.prompts, found.select(best), chosen)
        return ModelResult(name, responses, self._judged(responses), [], log(n) - (n - 1) / n)

    def _response(self, llava: Llava, name: str, prompts: PromptBatch) -> ModelResponses:
        return generate_responses(llava, name, prompts, self.sampling, seed=self.seed)

    def _judged(self, responses: ModelResponses) -> list[Verdicts]:
        return [
            Verdicts(
                judge.scores(self.records, responses), judge.right(self.records, responses.texts)
            )
            for judge in self.judges
        ]

    def _kl(self, llava: Llava) -> float:
        if llava.output_weight.shape != self.baseline.output_weight.shape:
            return nan
        given = (llava, self.baseline, self.prompts, self.sampling)
        return kl_divergence(*given, seed=self.seed, max_tokens=self.max_tokens)


def model_metrics(entry: ModelResult, judges: Sequence[Judge]) -> dict[str, Any]:
    """What is known of a model by itself: means over its answers."""
    metrics: dict[str, Any] = {}
    for judge, verdicts in zip(judges, entry.verdicts, strict=True):
        metrics[f"score_{judge.name}"] = mean(verdicts.scores)
        if verdicts.right is not None:
            metrics["accuracy"] = sum(verdicts.right) / len(verdicts.right)
    for judge, verdicts in zip(judges, entry.blind, strict=False):
        metrics[f"blind_score_{judge.name}"] = mean(verdicts.scores)
        if verdicts.right is not None:
            metrics["blind_accuracy"] = sum(verdicts.right) / len(verdicts.right)
    return metrics | {
        "kl": entry.kl,
        "words": sum(len(text.split()) for text in entry.texts) / len(entry.texts),
        "rep4": text_statistics(entry.texts)["text/rep4"],
        "distinct": len(set(entry.texts)),
    }


def win_metrics(results: Sequence[str]) -> dict[str, Any]:
    """Wins, losses and ties, the win rate (ties count half) and its 95 % interval."""
    names = {"wins": "win", "losses": "loss", "ties": "tie"}
    counts = {several: results.count(one) for several, one in names.items()}
    judged = sum(counts.values())
    if not judged:
        return {"win_rate": None, **counts}
    wins = counts["wins"] + counts["ties"] / 2
    low, high = wilson_interval(wins, judged)
    return {"win_rate": wins / judged, "low": low, "high": high, **counts}


def kind_of(record: Record) -> str:
    """The kind of an instruction: `type` of its meta, else its first two words."""
    kind = record.meta.get("type")
    return str(kind) if kind else " ".join(record.instruction.split()[:2])


def by_kind(records: Sequence[Record], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Win metrics of each kind of instruction, the most frequent first."""
    kinds: dict[str, list[str]] = {}
    for record, result in zip(records, results, strict=True):
        kinds.setdefault(kind_of(record), []).append(result)
    ranked = sorted(kinds.items(), key=lambda item: -len(item[1]))
    return {kind: {"prompts": len(own), **win_metrics(own)} for kind, own in ranked}


def person_verdicts(
    judgments: Sequence[PreferenceRecord],
    records: Sequence[Record],
    first: Sequence[str],
    texts: Sequence[str],
) -> tuple[Verdicts, Verdicts]:
    """What people said of two models' answers, as scores 0 and the share won minus that lost.

    An answer is found by image, instruction and both texts, in any order; NaN where nobody
    judged. Equal answers are ties.
    """
    said: dict[tuple[str, str, frozenset[str]], list[PreferenceRecord]] = {}
    for one in judgments:
        key = one.image_path, one.instruction, frozenset((one.response_a, one.response_b))
        said.setdefault(key, []).append(one)
    scores = []
    for record, old, new in zip(records, first, texts, strict=True):
        found = said.get((record.image_path, record.instruction, frozenset((old, new))), [])
        won = [_won(one, new) for one in found]
        scores.append(0.0 if old == new else sum(won) / len(won) if won else nan)
    zeros = [nan if isnan(score) else 0.0 for score in scores]
    return Verdicts(zeros, None), Verdicts(scores, None)


def _won(record: PreferenceRecord, text: str) -> int:
    if record.preference == "tie":
        return 0
    return 1 if getattr(record, record.preference) == text else -1


def mean(scores: Sequence[float]) -> float:
    """Of those there are."""
    found = [score for score in scores if not isnan(score)]
    return sum(found) / len(found) if found else nan
