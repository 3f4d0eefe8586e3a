"""The command that scores responses: with a reward model, or with a scorer a person brings."""

import json
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from rlhf.config import Config
from rlhf.console import say, table
from rlhf.data.collate import Record, preference_batch, prompt_batch, response_batch
from rlhf.data.encoders import Encoder, TextBytes
from rlhf.data.lines import replaced_file
from rlhf.data.records import PreferenceRecord, PromptRecord, record_kind, responses
from rlhf.errors import UsageError
from rlhf.models.contract import RewardCard, file_hash
from rlhf.models.location import ModelLocation
from rlhf.models.reward_files import load_reward
from rlhf.models.scorers import Scorer, load_scorer
from rlhf.reward_evaluation import scored_pairs
from rlhf.reward_figures import FIGURE_COLUMNS, figure_rows, reward_figures
from rlhf.scored_pairs import ScoredPairs
from rlhf.stages.common import load_model, read_captions, read_with_pictures
from rlhf.stages.job import Job
from rlhf.stages.splits import split_pairs

Scored = list[tuple[Record, list[float]]]  # each record with one score a response


def score(job: Job) -> dict[str, Any]:
    """Score the responses of a file; accuracy where it holds preferences."""
    scorer, encoder, card, path = _opened(job)
    kind = record_kind(path)
    if kind is PromptRecord:
        fix = "give preferences, candidates or demonstrations"
        raise UsageError("the file has no responses to score", str(path), fix)
    summary: dict[str, Any] = {}
    if kind is PreferenceRecord:
        scored, summary = _scored_preferences(job, scorer, encoder, card, path)
    else:
        records, root = read_with_pictures(job.config, path, kind)
        scored = _scored(job.config, scorer, encoder, records, root)
    summary["records"] = len(scored)
    found = [x for _, scores in scored for x in scores if not isnan(x)]
    summary["mean_score"] = sum(found) / len(found) if found else None
    summary["unscored"] = sum(len(scores) for _, scores in scored) - len(found)
    if job.config.output:
        _write(Path(job.config.output), scored)
    return summary


def _opened(job: Job) -> tuple[Scorer, Encoder, RewardCard | None, Path]:
    """The scorer, what encodes text for it, its card if it has one, and the file to score."""
    wanted = 1 if job.scorer else 2
    if len(job.files) != wanted:
        usage = "rlhf score RUN FILE.jsonl, or rlhf score FILE.jsonl --scorer=FILE.py:NAME"
        raise UsageError(f"this takes {wanted} words, got {len(job.files)}", "rlhf score", usage)
    config = job.config
    if job.scorer:
        encoder = TextBytes()
        return load_scorer(job.scorer, encoder, config.reward), encoder, None, job.files[0]
    card = RewardCard.read(str(job.files[0]))[1]
    model = structs.replace(config.model, quantization=card.contract["quantization"])
    location = ModelLocation(card.captioner or card.base)
    llava = load_model(structs.replace(config, model=model), location)
    captions = read_captions(config.reward.captions, config.data.root)
    path = str(job.files[0])
    reward = load_reward(path, llava, share_trunk=True, captions=captions, exact=True)
    return reward, llava.builder, card, job.files[1]


def _scored(
    config: Config, scorer: Scorer, encoder: Encoder, records: Sequence[Record], root: Path
) -> Scored:
    texts = [responses(record) for record in records]
    owners = [record for record, own in zip(records, texts, strict=True) for _ in own]
    longest = config.data.max_prompt_tokens
    prompts = prompt_batch(owners, encoder, root, max_tokens=longest)
    answers = response_batch([text for own in texts for text in own], encoder)
    scores = scorer.scores(prompts, answers, max_tokens=config.ppo.microbatch_tokens)
    parts = scores.split([len(own) for own in texts])
    return [(record, part.tolist()) for record, part in zip(records, parts, strict=True)]


def _scored_preferences(
    job: Job,
    scorer: Scorer,
    encoder: Encoder,
    card: RewardCard | None,
    path: Path,
) -> tuple[Scored, dict[str, Any]]:
    """Both responses of each pair, and the figures; training pairs must score as in training."""
    records, root = read_with_pictures(job.config, path, PreferenceRecord)
    training = card.training if card else {}
    known = bool(training) and training["file"] == file_hash(path)
    max_tokens = training["max_tokens"] if known else job.config.ppo.microbatch_tokens
    split = split_pairs(
        records,
        root,
        fraction=training["validation_fraction"] if known else 0.0,
        seed=training["seed"] if known else 0,
    )
    scored: dict[int, list[float]] = {}
    summary: dict[str, Any] = {}
    pairs = []
    for name, part in (("training", split.training), ("held_out", split.held_out)):
        if not part:
            continue
        batch = preference_batch(part, encoder, root, max_tokens=job.config.data.max_prompt_tokens)
        own = scored_pairs(scorer, part, batch, max_tokens=max_tokens)
        pairs.append(own)
        scored |= _by_record(part, own, getattr(scorer, "std", 1.0))
        if known:
            summary[f"{name}_accuracy"] = float(own.credit.nanmean())
    if known:
        _check_reproduced(summary["training_accuracy"], training, path)
    figures = reward_figures(ScoredPairs.joined(pairs), seed=job.config.seed)
    table("pairs", FIGURE_COLUMNS, figure_rows(figures))
    summary |= {"accuracy": figures.accuracy.value, **figures.scalars()}
    return [(record, scored[id(record)]) for record in records], summary


def _by_record(
    records: Sequence[PreferenceRecord], pairs: ScoredPairs, std: float
) -> dict[int, list[float]]:
    """Normalised scores of response_a and response_b, by the record's identity."""
    rows = zip(
        records, (pairs.scores_a / std).tolist(), (pairs.scores_b / std).tolist(), strict=True
    )
    return {
        id(record): [second, first] if record.preference == "response_b" else [first, second]
        for record, first, second in rows
    }


def _check_reproduced(accuracy: float, training: dict[str, Any], path: Path) -> None:
    say(f"training pairs: accuracy {accuracy:.4f}, in training {training['accuracy']:.4f}")
    if accuracy != training["accuracy"]:
        raise UsageError(
            "the reward model does not score its training pairs as it did in training",
            f"{path}: accuracy {accuracy}, in training {training['accuracy']}",
            "use the device and library versions it was trained with, or train it again",
        )


def _write(path: Path, scored: Scored) -> None:
    """Each record as it was, with `scores` (null where there is none), in the order written."""
    with replaced_file(path) as file:
        for record, scores in scored:
            row = {**msgspec.to_builtins(record), "scores": [_number(x) for x in scores]}
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _number(score: float) -> float | None:
    return None if isnan(score) else score
