"""Compare the responses of several models with those of the first model, prompt by prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan, log, nan
from pathlib import Path
from random import Random
from typing import Any

import torch

from rlhf.config.schema import SamplingConfig
from rlhf.data.collate import Record
from rlhf.data.prompt_keys import prompt_content
from rlhf.data.records import CandidatesRecord, PreferenceRecord
from rlhf.data.tokenization import reencode_responses, with_images
from rlhf.data.validation.agreement import wilson_interval
from rlhf.evaluation.judges import (
    Judge,
    JudgeOutputs,
    ModelResponses,
    generate_responses,
    kl_divergence,
)
from rlhf.generation.sampler import generate_shared
from rlhf.models.fingerprints import same_encoding
from rlhf.models.llava import Llava
from rlhf.parallel.world import ALONE, World
from rlhf.tracking.text_metrics import text_statistics
from rlhf.types import PromptBatch


@dataclass(frozen=True)
class ModelResult:
    """The responses of one model, the outputs of the judges on them, and its KL divergence.

    Attributes:
        name: what the model is called.
        responses: its responses to the prompts.
        outputs: one of each judge on these responses; the first judge decides.
        mismatched_outputs: one of each judge on the responses to the same prompts with other
            prompts' images, judged by the right images.
        kl: KL divergence from the first model, nats a response; NaN where they encode
            texts differently.
    """

    name: str
    responses: ModelResponses
    outputs: list[JudgeOutputs]
    mismatched_outputs: list[JudgeOutputs]
    kl: float

    @property
    def texts(self) -> list[str]:
        """The responses as texts, one to each prompt."""
        return self.responses.texts


@dataclass(frozen=True)
class Comparison:
    """Evaluates models on the same prompts with the same judges.

    Attributes:
        records: the B records of the prompts.
        prompts: the B prompts, encoded.
        judges: judge every response; the first one decides.
        baseline: the model that the others are compared with.
        sampling: how every model generates.
        seed: of the samples.
        max_tokens: tokens evaluated at once.
        world: the processes that share out the batches.
    """

    records: Sequence[Record]
    prompts: PromptBatch
    judges: Sequence[Judge]
    baseline: Llava
    sampling: SamplingConfig
    seed: int
    max_tokens: int
    world: World = ALONE

    def evaluate(self, name: str, llava: Llava) -> ModelResult:
        """Generate and judge responses to the prompts, and to the prompts with other images."""
        responses = self._generate(llava, name, self.prompts.images)
        images = self.prompts.mismatched_images()
        mismatched = self._generate(llava, f"{name}, another image", images)
        kl = 0.0 if llava is self.baseline else self._kl(llava)
        return ModelResult(name, responses, self._judge(responses), self._judge(mismatched), kl)

    def best_of(self, name: str, judge: Judge, n: int) -> ModelResult:
        """Sample n responses of the first model to each prompt and keep the highest-scored one.

        The `kl` of the result is log n - (n - 1)/n, an upper bound for this policy (Beirami et al.
        2024, arXiv:2401.01879).

        Args:
            name: what the result is called.
            judge: scores the samples.
            n: samples of each prompt.
        """
        rows = torch.arange(len(self.prompts)).repeat_interleave(n)
        samples = torch.arange(n).repeat(len(self.prompts))
        sampling = replace(self.sampling, temperature=self.sampling.temperature or 1.0)
        repeated = self.prompts.select(rows)
        candidates = generate_shared(
            self.baseline, repeated, sampling, self.world, seed=self.seed, samples=samples
        )
        texts = [self.baseline.builder.decode(row) for row in candidates.rows()]
        scores = judge.scores(
            [self.records[row] for row in rows], ModelResponses(name, repeated, candidates, texts)
        )
        filled = torch.tensor(scores).nan_to_num(nan=-torch.inf).view(-1, n)
        best = filled.argmax(1) + torch.arange(len(self.prompts)) * n
        best_texts = [texts[row] for row in best.tolist()]
        responses = ModelResponses(name, self.prompts, candidates.select(best), best_texts)
        return ModelResult(name, responses, self._judge(responses), [], log(n) - (n - 1) / n)

    def _generate(
        self, llava: Llava, name: str, images: tuple[tuple[Path, ...], ...]
    ) -> ModelResponses:
        """Generate by a model as it encodes the prompts, with these images.

        The result is for the judges: of the prompts with their own images, all encoded as the first
        model does.
        """
        prompts, ours = self.prompts, self.baseline.builder
        same = same_encoding(llava.builder, ours)
        if images != prompts.images or not same:
            prompts = with_images(prompts, images, llava.builder)
        generated = generate_responses(
            llava, name, prompts, self.sampling, seed=self.seed, world=self.world
        )
        responses = generated.responses
        if not same:
            responses = reencode_responses(responses, llava.builder, ours)
        return replace(generated, prompts=self.prompts, responses=responses)

    def _judge(self, responses: ModelResponses) -> list[JudgeOutputs]:
        return [
            JudgeOutputs(
                judge.scores(self.records, responses), judge.correct(self.records, responses.texts)
            )
            for judge in self.judges
        ]

    def _kl(self, llava: Llava) -> float:
        if not same_encoding(llava.builder, self.baseline.builder):
            return nan
        return kl_divergence(
            llava,
            self.baseline,
            self.prompts,
            self.sampling,
            seed=self.seed,
            max_tokens=self.max_tokens,
            world=self.world,
        )


def model_metrics(result: ModelResult, judges: Sequence[Judge]) -> dict[str, Any]:
    """Compute the metrics of one model by itself: means over its responses.

    Args:
        result: of the model.
        judges: the judges of its outputs, in order.

    Returns:
        `score_…` of each judge, `accuracy`, both with the images of others (`blind_…`), `kl` (nats
        a response), `words` a response, `rep4` and the number of `distinct` responses.
    """
    metrics: dict[str, Any] = {}
    for prefix, outputs in (("", result.outputs), ("blind_", result.mismatched_outputs)):
        for judge, output in zip(judges, outputs, strict=False):
            metrics[f"{prefix}score_{judge.name}"] = nan_mean(output.scores)
            if output.correct is not None:
                metrics[f"{prefix}accuracy"] = sum(output.correct) / len(output.correct)
    return metrics | {
        "kl": result.kl,
        "words": sum(len(text.split()) for text in result.texts) / len(result.texts),
        "rep4": text_statistics(result.texts)["text/rep4"],
        "distinct": len(set(result.texts)),
    }


def win_metrics(outcomes: Sequence[str]) -> dict[str, Any]:
    """Count wins, losses and ties, with the win rate (ties count half) and its 95 % interval."""
    names = {"wins": "win", "losses": "loss", "ties": "tie"}
    counts = {plural: outcomes.count(outcome) for plural, outcome in names.items()}
    scored = sum(counts.values())
    if not scored:
        return {"win_rate": None, **counts}
    wins = counts["wins"] + counts["ties"] / 2
    low, high = wilson_interval(wins, scored)
    return {"win_rate": wins / scored, "low": low, "high": high, **counts}


def instruction_kind(record: Record) -> str:
    """Return the kind of an instruction: `type` of its meta, else its first two words."""
    kind = record.meta.get("type")
    return str(kind) if kind else " ".join(record.instruction.split()[:2])


def win_metrics_by_kind(
    records: Sequence[Record], outcomes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Compute win metrics for each kind of instruction, the most frequent kind first."""
    by_kind: dict[str, list[str]] = {}
    for record, outcome in zip(records, outcomes, strict=True):
        by_kind.setdefault(instruction_kind(record), []).append(outcome)
    by_count = sorted(by_kind.items(), key=lambda item: -len(item[1]))
    return {
        kind: {"prompts": len(kind_outcomes), **win_metrics(kind_outcomes)}
        for kind, kind_outcomes in by_count
    }


def person_outputs(
    judgments: Sequence[PreferenceRecord],
    records: Sequence[Record],
    baseline_texts: Sequence[str],
    texts: Sequence[str],
) -> tuple[JudgeOutputs, JudgeOutputs]:
    """Turn the preferences of people between two models' responses into scores.

    A preference belongs to a prompt when image, instruction, earlier turns and both texts are
    equal, whichever text stood on which side.

    Args:
        judgments: the preferences.
        records: B prompts.
        baseline_texts: the first model's response to each.
        texts: the other model's response to each.

    Returns:
        Outputs for the first model, whose scores are 0, and for the other, whose scores are the
        share of the judgments that it won minus the share that it lost. Both are NaN where nobody
        judged; equal responses are ties.
    """
    by_pair: dict[tuple[tuple[str, ...], frozenset[str]], list[PreferenceRecord]] = {}
    for judgment in judgments:
        responses = frozenset((judgment.response_a, judgment.response_b))
        key = prompt_content(judgment), responses
        by_pair.setdefault(key, []).append(judgment)
    scores = []
    for record, before, after in zip(records, baseline_texts, texts, strict=True):
        key = prompt_content(record), frozenset((before, after))
        votes = [_vote(judgment, after) for judgment in by_pair.get(key, [])]
        scores.append(0.0 if before == after else sum(votes) / len(votes) if votes else nan)
    zeros = [nan if isnan(score) else 0.0 for score in scores]
    return JudgeOutputs(zeros, None), JudgeOutputs(scores, None)


def unjudged_pairs(
    judgments: Sequence[PreferenceRecord],
    records: Sequence[Record],
    results: Sequence[ModelResult],
    seed: int,
) -> list[CandidatesRecord]:
    """Return the pairs that nobody judged, in random order, the sides of each at random.

    Args:
        judgments: the preferences of people.
        records: B prompts.
        results: of the models, whose responses are paired with those of the first.
        seed: of both orders.
    """
    random, rows = Random(seed), []
    for result in results[1:]:
        outputs = person_outputs(judgments, records, results[0].texts, result.texts)[1]
        for record, before, after, score in zip(
            records, results[0].texts, result.texts, outputs.scores, strict=True
        ):
            if isnan(score) and before.strip() and after.strip():
                texts = random.sample([before, after], 2)
                prompt = record.image_path, record.instruction
                rows.append(CandidatesRecord(*prompt, texts, history=record.history))
    random.shuffle(rows)
    return rows


def _vote(judgment: PreferenceRecord, text: str) -> int:
    """Return 1 if the judgment prefers `text`, -1 if it prefers the other text, 0 for a tie."""
    if judgment.preference == "tie":
        return 0
    return 1 if getattr(judgment, judgment.preference) == text else -1


def nan_mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN without any."""
    numbers = [value for value in values if not isnan(value)]
    return sum(numbers) / len(numbers) if numbers else nan
