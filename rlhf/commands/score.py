"""The command that scores responses: with a reward model, or with a scorer a person brings."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from rlhf.commands.job import Job
from rlhf.commands.model_setup import load_model, read_captions
from rlhf.data.collate import Record, preference_batch, prompt_batch
from rlhf.data.input_files import input_file, read_with_images
from rlhf.data.jsonl import replaced_file
from rlhf.data.records import PreferenceRecord, PromptRecord, record_kind, responses
from rlhf.data.splits import split_pairs
from rlhf.data.tokenization import ByteEncoder, TextEncoder, response_batch
from rlhf.errors import ResourceError, UsageError
from rlhf.evaluation.reward_metrics import METRIC_COLUMNS, metric_rows, reward_metrics
from rlhf.evaluation.reward_scoring import scored_pairs
from rlhf.evaluation.scored_pairs import ScoredPairs
from rlhf.models.fingerprints import file_hash
from rlhf.models.location import ModelLocation
from rlhf.rewards.external.loader import load_scorer
from rlhf.rewards.llava_reward import Scorer
from rlhf.rewards.loading import load_reward
from rlhf.rewards.reward_card import RewardCard
from rlhf.tracking.console import say, table
from rlhf.types import PromptBatch, Responses

SHOWN = 20  # answers
TRAINING_FACTS = {"file", "validation_fraction", "seed", "max_tokens", "accuracy"}

Scores = list[list[float]]  # one a response of each record, NaN where there is none


@dataclass(frozen=True)
class RecordScorer:
    """What scores the responses of records.

    Attributes:
        encoder: encodes text for it.
        longest: tokens of a prompt at most.
        max_tokens: padded tokens of one group.
        card: of a reward model.
    """

    scorer: Scorer
    encoder: TextEncoder
    longest: int
    max_tokens: int
    card: RewardCard | None = None


@dataclass
class _Known:
    """A scorer of scores that are there already: [B] float32."""

    known: Tensor
    name: str = "known"
    can_fail: bool = False

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        return self.known


def score(job: Job) -> dict[str, Any]:
    """Score the responses of a file; accuracy where it holds preferences."""
    path = _checked_file(job)
    kind, summary = record_kind(path), dict[str, Any]()
    if kind is PromptRecord:
        fix = "give preferences, candidates or demonstrations"
        raise UsageError("the file has no responses to score", str(path), fix)
    records: Sequence[Record]
    if kind is PreferenceRecord:
        records, scores, summary = _scored_preferences(job, path)
    else:
        records, root = read_with_images(job.config, path, kind)
        scores = scored(_opened(job), records, root)
        if not job.config.output:
            _show(records, scores)
    found = [x for own in scores for x in own if not isnan(x)]
    summary["records"] = len(records)
    summary["mean_score"] = sum(found) / len(found) if found else None
    summary["unscored"] = sum(map(len, scores)) - len(found)
    if job.config.output:
        _write(Path(job.config.output), records, scores)
    return summary


def _checked_file(job: Job) -> Path:
    """The file to score, once it is there and the output can be written, before a model loads."""
    wanted = 1 if job.scorer else 2
    if len(job.files) != wanted:
        usage = "rlhf score RUN FILE.jsonl, or rlhf score FILE.jsonl --scorer=FILE.py:NAME"
        raise UsageError(f"this takes {wanted} words, got {len(job.files)}", "rlhf score", usage)
    path = input_file(str(job.files[-1]), "its name")
    if job.config.output:
        _check_output(Path(job.config.output), path)
    return path


def _check_output(output: Path, path: Path) -> None:
    """Refuse an output that would destroy the input or cannot be written."""
    where = f"output={output}"
    if not output.parent.is_dir():
        raise ResourceError("the folder of the output is not there", where, "make it first")
    if output.exists() and not output.is_file():
        raise ResourceError("the output is no regular file", where, "choose a new name")
    if output.exists() and output.samefile(path):
        raise UsageError("the input would be overwritten", where, "choose a new name")


def _opened(job: Job) -> RecordScorer:
    config, max_tokens = job.config, job.config.ppo.microbatch_tokens
    if job.scorer:
        encoder = ByteEncoder()  # no model reads these prompts: no number of tokens is too many
        scorer = load_scorer(job.scorer, encoder, config.scorer)
        return RecordScorer(scorer, encoder, sys.maxsize, max_tokens)
    path = str(job.files[0])
    directory, card = RewardCard.read(path)
    part = "captioner_" if card.captioner else ""
    stored: Any = card.contract.get(f"{part}quantization", config.model.quantization)
    dtype: Any = card.contract.get(f"{part}dtype", "").removeprefix("torch.")
    config = replace(
        config,
        model=replace(config.model, quantization=stored),
        dtype=dtype if dtype in ("float32", "bfloat16") else config.dtype,
    )
    llava = load_model(config, ModelLocation(card.captioner or card.backbone_path(directory)))
    captions = read_captions(config.reward.captions, config.data.root)
    reward = load_reward(path, llava, share_base_model=True, captions=captions, exact=True)
    return RecordScorer(reward, llava.builder, config.data.max_prompt_tokens, max_tokens, card)


def scored(judge: RecordScorer, records: Sequence[Record], root: Path) -> Scores:
    """Scores of the responses of each record, NaN where there is none."""
    texts = [responses(record) for record in records]
    owners = [record for record, own in zip(records, texts, strict=True) for _ in own]
    prompts = prompt_batch(owners, judge.encoder, root, max_tokens=judge.longest)
    batch = response_batch([text for own in texts for text in own], judge.encoder)
    scores = judge.scorer.scores(prompts, batch, max_tokens=judge.max_tokens)
    return [part.tolist() for part in scores.split([len(own) for own in texts])]


def _scored_preferences(
    job: Job, path: Path
) -> tuple[list[PreferenceRecord], Scores, dict[str, Any]]:
    """The pairs, their scores, and the metrics; training pairs must score as in training."""
    records, root = read_with_images(job.config, path, PreferenceRecord)
    judge = _opened(job)
    training = _training_facts(judge.card, path)
    if judge.card is None:
        scores, parts = _scored_outside(judge, records, root)
    else:
        scores, parts = _scored_by_split(judge, records, root, training)
    summary = dict[str, Any]()
    if training:
        summary = {f"{name}_accuracy": float(x.credit.nanmean()) for name, x in parts.items()}
        _check_reproduced(summary["training_accuracy"], training, path)
    summary["unscored_pairs"] = sum(any(map(isnan, own)) for own in scores)
    if not parts:
        say("no pair has two scores: there are no figures")
        return records, scores, summary
    metrics = reward_metrics(ScoredPairs.concatenate(list(parts.values())), seed=job.config.seed)
    table("pairs", METRIC_COLUMNS, metric_rows(metrics))
    return records, scores, summary | {"accuracy": metrics.accuracy.value, **metrics.scalars()}


def _training_facts(card: RewardCard | None, path: Path) -> dict[str, Any]:
    """What the card tells of its training, when that was on this file; else nothing."""
    training = card.training if card else {}
    complete = training.keys() >= TRAINING_FACTS
    return training if complete and training["file"] == file_hash(path) else {}


def _scored_by_split(
    judge: RecordScorer,
    records: Sequence[PreferenceRecord],
    root: Path,
    training: dict[str, Any],
) -> tuple[Scores, dict[str, ScoredPairs]]:
    """By a reward model, in the parts and groups in which its training scored them."""
    fraction, seed = training.get("validation_fraction", 0.0), training.get("seed", 0)
    split = split_pairs(records, root, fraction=fraction, seed=seed)
    max_tokens = training.get("max_tokens", judge.max_tokens)
    scored: dict[int, list[float]] = {}
    parts = {}
    for name, part in (("training", split.training), ("held_out", split.held_out)):
        if part:
            batch = preference_batch(part, judge.encoder, root, max_tokens=judge.longest)
            parts[name] = scored_pairs(judge.scorer, part, batch, max_tokens=max_tokens)
            scored |= _by_record(part, parts[name], getattr(judge.scorer, "std", 1.0))
    return [scored[id(record)] for record in records], parts


def _by_record(
    records: Sequence[PreferenceRecord], pairs: ScoredPairs, std: float
) -> dict[int, list[float]]:
    """Normalised scores of response_a and response_b, by the record's identity."""
    rows = torch.stack([pairs.scores_a, pairs.scores_b], dim=1) / std
    return {
        id(record): _swapped(record, own)
        for record, own in zip(records, rows.tolist(), strict=True)
    }


def _scored_outside(
    judge: RecordScorer, records: Sequence[PreferenceRecord], root: Path
) -> tuple[Scores, dict[str, ScoredPairs]]:
    """By a scorer that may leave answers without a score: such pairs are in no metric."""
    scores = scored(judge, records, root)
    both = zip(records, scores, strict=True)
    found = [(record, own) for record, own in both if not any(map(isnan, own))]
    if not found:
        return scores, {}
    kept = [record for record, _ in found]
    batch = preference_batch(kept, judge.encoder, root, max_tokens=judge.longest)
    known = _Known(torch.tensor([_swapped(*row) for row in found]).T.flatten())
    return scores, {"given": scored_pairs(known, kept, batch, max_tokens=judge.max_tokens)}


def _swapped(record: PreferenceRecord, scores: list[float]) -> list[float]:
    """Scores of a and b as those of chosen and rejected, and back."""
    return scores[::-1] if record.preference == "response_b" else scores


def _check_reproduced(accuracy: float, training: dict[str, Any], path: Path) -> None:
    say(f"training pairs: accuracy {accuracy:.4f}, in training {training['accuracy']:.4f}")
    if accuracy != training["accuracy"]:
        raise UsageError(
            "the reward model does not score its training pairs as it did in training",
            f"{path}: accuracy {accuracy}, in training {training['accuracy']}",
            "use the device and library versions it was trained with, or train it again",
        )


def _show(records: Sequence[Record], scores: Scores) -> None:
    """Print the first answers with their scores."""
    rows = [
        (record.image_path, record.instruction, text, "–" if isnan(x) else x)
        for record, own in zip(records, scores, strict=True)
        for text, x in zip(responses(record), own, strict=True)
    ]
    table("scores", ("image", "instruction", "answer", "score"), rows[:SHOWN])
    if len(rows) > SHOWN:
        say(f"… and {len(rows) - SHOWN} more; output=SCORES.jsonl keeps them all")


def _write(path: Path, records: Sequence[Record], scores: Scores) -> None:
    """Each record as it was, with `scores` (null where there is none), in the order written."""
    with replaced_file(path) as file:
        for record, own in zip(records, scores, strict=True):
            numbers = [None if isnan(x) else x for x in own]
            row = {**msgspec.to_builtins(record), "scores": numbers}
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
