"""`rlhf score`: score responses with a reward model or an external scorer."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import msgspec

from rlhf.commands.fitting import fitting_scorer, token_limits
from rlhf.commands.job import Job
from rlhf.commands.model_setup import load_model, read_captions
from rlhf.data.collate import Record
from rlhf.data.input_files import input_file, read_with_images
from rlhf.data.records import PreferenceRecord, PromptRecord, record_kind, responses
from rlhf.data.token_limits import T, TokenLimits, fitting_records
from rlhf.data.tokenization import ByteEncoder
from rlhf.errors import ResourceError, UsageError
from rlhf.evaluation.preference_scoring import score_complete_pairs, score_split
from rlhf.evaluation.reward_metrics import reward_metrics
from rlhf.evaluation.reward_tables import METRIC_COLUMNS, metric_rows
from rlhf.evaluation.scored_pairs import ScoredPairs
from rlhf.history import transcript
from rlhf.models.locations import ModelLocation
from rlhf.rewards.external.loader import load_scorer
from rlhf.rewards.loading import load_reward_model
from rlhf.rewards.record_scoring import RecordScorer, RecordScores
from rlhf.rewards.reward_card import RewardCard
from rlhf.storage.atomic import replaced_file
from rlhf.storage.hashing import file_hash
from rlhf.tracking.console import say, table

MAX_ROWS = 20  # responses in the printed table
TRAINING_FACTS = {"file", "validation_fraction", "seed", "max_tokens", "accuracy"}


def score(job: Job) -> dict[str, Any]:
    """Score the responses of a file, and write each record with its scores to `output`.

    Returns:
        Counts of records and of responses without a score, the mean score; for preferences also
        accuracy and the other metrics of a reward model.
    """
    path = _checked_file(job)
    kind, summary = record_kind(path), dict[str, Any]()
    if kind is PromptRecord:
        fix = "give preferences, candidates or demonstrations"
        raise UsageError("the file has no responses to score", str(path), fix)
    records: Sequence[Record]
    if kind is PreferenceRecord:
        records, scores, summary = _score_preferences(job, path)
    else:
        records, root = read_with_images(job.config, path, kind)
        scorer = _record_scorer(job)
        records = _fitting(job, scorer, records, root)
        scores = scorer.scores(records, root)
        if not job.config.output:
            _print_scores(records, scores)
    values = [x for row in scores for x in row if not isnan(x)]
    summary["records"] = len(records)
    summary["mean_score"] = sum(values) / len(values) if values else None
    summary["unscored"] = sum(map(len, scores)) - len(values)
    if job.config.output:
        _write(Path(job.config.output), records, scores)
    return summary


def _checked_file(job: Job) -> Path:
    """Return the file to score; check it and the output before a model loads."""
    expected = 1 if job.scorer else 2
    if len(job.files) != expected:
        usage = "rlhf score RUN FILE.jsonl, or rlhf score FILE.jsonl --scorer=FILE.py:NAME"
        raise UsageError(f"this takes {expected} words, got {len(job.files)}", "rlhf score", usage)
    path = input_file(str(job.files[-1]), "FILE.jsonl")
    if job.config.output:
        _check_output(Path(job.config.output))
    return path


def _check_output(output: Path) -> None:
    """Refuse an output that cannot be written."""
    where = f"output={output}"
    if not output.parent.is_dir():
        raise ResourceError("the directory of the output does not exist", where, "make it first")
    if output.exists() and not output.is_file():
        raise ResourceError("the output is no regular file", where, "choose a new name")


def _record_scorer(job: Job) -> RecordScorer:
    """Load the external scorer that `--scorer=` names, or the reward model of the run."""
    config, max_tokens = job.config, job.config.ppo.microbatch_tokens
    if job.scorer:
        encoder = ByteEncoder()  # no model reads these prompts, so their length has no limit
        scorer = load_scorer(job.scorer, encoder, config.scorer)
        return RecordScorer(scorer, encoder, TokenLimits(sys.maxsize), max_tokens)
    path = str(job.files[0])
    directory, card = RewardCard.read(path)
    prefix = "captioner_" if card.captioner else ""
    quantization: Any = card.fingerprint.get(f"{prefix}quantization", config.model.quantization)
    dtype: Any = card.fingerprint.get(f"{prefix}dtype", "").removeprefix("torch.")
    config = replace(
        config,
        model=replace(config.model, quantization=quantization),
        dtype=dtype if dtype in ("float32", "bfloat16") else config.dtype,
    )
    find_base = card.captioner_path if card.captioner else card.backbone_path
    llava = load_model(config, ModelLocation(find_base(directory, config.model.base)))
    captions = read_captions(config.reward.captions, config.data.root)
    reward = load_reward_model(
        path,
        llava,
        share_base_model=True,
        captions=captions,
        exact=True,
        base_override=config.model.base,
    )
    limits = token_limits(config, llava)
    return RecordScorer(reward, llava.builder, limits, max_tokens, card)


def _fitting(job: Job, scorer: RecordScorer, records: Sequence[T], root: Path) -> list[T]:
    """Return the records that the scorer can read."""
    skip = job.config.data.on_too_long == "skip"
    fitting = fitting_records(records, scorer.encoder, root, scorer.limits, skip=skip)
    return fitting_scorer(job.config, scorer.scorer, scorer.encoder, fitting, root)


def _score_preferences(
    job: Job, path: Path
) -> tuple[list[PreferenceRecord], RecordScores, dict[str, Any]]:
    """Score pairs and compute metrics; training pairs must score as they did in training."""
    records, root = read_with_images(job.config, path, PreferenceRecord)
    scorer, summary = _record_scorer(job), dict[str, Any]()
    records = _fitting(job, scorer, records, root)
    if scorer.card is None:
        scores, complete_pairs = score_complete_pairs(scorer, records, root)
        parts = [complete_pairs] if complete_pairs else []
    else:
        training = _training_facts(scorer.card, path)
        scores, pairs_by_split = _score_as_trained(scorer, records, root, training)
        parts = list(pairs_by_split.values())
        if training:
            summary = {
                f"{name}_accuracy": float(pairs.credit.nanmean())
                for name, pairs in pairs_by_split.items()
            }
            _check_reproduced(summary["training_accuracy"], training, path)
    summary["unscored_pairs"] = sum(any(map(isnan, row)) for row in scores)
    if not parts:
        say("no pair has two scores: there are no metrics")
        return records, scores, summary
    metrics = reward_metrics(ScoredPairs.concatenate(parts), seed=job.config.seed)
    table("pairs", METRIC_COLUMNS, metric_rows(metrics))
    return records, scores, summary | {"accuracy": metrics.accuracy.value, **metrics.scalars()}


def _training_facts(card: RewardCard, path: Path) -> dict[str, Any]:
    """Return the training facts of the card if it was trained on this file, else an empty dict."""
    training = card.training
    complete = training.keys() >= TRAINING_FACTS
    return training if complete and training["file"] == file_hash(path) else {}


def _score_as_trained(
    scorer: RecordScorer,
    records: Sequence[PreferenceRecord],
    root: Path,
    training: dict[str, Any],
) -> tuple[RecordScores, dict[str, ScoredPairs]]:
    """Score with the split and micro-batches of training; without facts, all pairs in one split."""
    if not training:
        return score_split(scorer, records, root)
    scorer = replace(scorer, max_tokens=training["max_tokens"])
    fraction, seed = training["validation_fraction"], training["seed"]
    return score_split(scorer, records, root, fraction=fraction, seed=seed)


def _check_reproduced(accuracy: float, training: dict[str, Any], path: Path) -> None:
    say(f"training pairs: accuracy {accuracy:.4f}, in training {training['accuracy']:.4f}")
    if accuracy != training["accuracy"]:
        raise UsageError(
            "the reward model does not score its training pairs as it did in training",
            f"{path}: accuracy {accuracy}, in training {training['accuracy']}",
            "use the device and library versions it was trained with, or train it again",
        )


def _print_scores(records: Sequence[Record], scores: RecordScores) -> None:
    """Print the first responses with their scores."""
    rows = [
        (
            record.image_path,
            transcript(record.history, record.instruction),
            text,
            "–" if isnan(x) else x,
        )
        for record, row in zip(records, scores, strict=True)
        for text, x in zip(responses(record), row, strict=True)
    ]
    table("scores", ("image", "instruction", "response", "score"), rows[:MAX_ROWS])
    if len(rows) > MAX_ROWS:
        say(f"… and {len(rows) - MAX_ROWS} more; output=SCORES.jsonl writes all of them")


def _write(path: Path, records: Sequence[Record], scores: RecordScores) -> None:
    """Write each record, in order, with its `scores`; a response without a score has null."""
    with replaced_file(path) as file:
        for record, row in zip(records, scores, strict=True):
            values = [None if isnan(x) else x for x in row]
            line = {**msgspec.to_builtins(record), "scores": values}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
