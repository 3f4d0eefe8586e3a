"""The command that compares: two models on pictures that neither training saw."""

from collections.abc import Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

from rlhf.config import Config
from rlhf.data.collate import Record, prompt_batch
from rlhf.data.encoders import with_pictures
from rlhf.data.images import load_image
from rlhf.data.records import PromptRecord, resolve_image
from rlhf.demo.rule import TIE_MARGIN, is_right, rule_score
from rlhf.errors import UsageError
from rlhf.evaluation import (
    Answers,
    Judge,
    ScorerJudge,
    Verdicts,
    answer,
    comparison_figures,
    judged,
    kl_divergence,
    outcomes,
)
from rlhf.metrics import read_metrics, text_statistics
from rlhf.models.llava import Llava
from rlhf.report import Comparison, write_report
from rlhf.stages.answers import load_adapted
from rlhf.stages.common import input_file, read_with_pictures, scorer_of
from rlhf.stages.job import Job

CURVES = (
    "objective/scores",
    "objective/kl",
    "objective/rlhf_reward",
    "policy/entropy_avg",
    "val/explained_variance",
    "tokens/responses_len_mean",
)


class RuleJudge:
    """The published rule, on records that carry the facts of their picture."""

    name, tie_margin = "rule", TIE_MARGIN

    def scores(self, records: Sequence[Record], answers: Answers) -> list[float]:
        pairs = zip(records, answers.texts, strict=True)
        return [rule_score(record, text) for record, text in pairs]

    def right(self, records: Sequence[Record], texts: Sequence[str]) -> list[bool] | None:
        pairs = zip(records, texts, strict=True)
        return [is_right(record, text) for record, text in pairs]


def evaluate(job: Job) -> dict[str, Any]:
    """Compare a model with its baseline; leaves report.html in the run folder."""
    config = job.config
    if len(job.files) != 2:
        raise UsageError(
            "evaluate compares two models", "rlhf evaluate", "rlhf evaluate BEFORE AFTER …"
        )
    path = input_file(config.data.prompts, "data.prompts")
    records, root = read_with_pictures(config, path, PromptRecord)
    records = records[: config.evaluation.limit or None]
    baseline, tuned = (load_adapted(config, str(file)) for file in job.files)
    judges = _judges(job, baseline)
    prompts = prompt_batch(
        records, baseline.builder, root, max_tokens=config.data.max_prompt_tokens
    )
    before = answer(baseline, "before", prompts, config.sampling, seed=config.seed)
    after = answer(tuned, "after", prompts, config.sampling, seed=config.seed)
    verdicts = [judged(judges[0], records, answers) for answers in (before, after)]
    summary = {
        **comparison_figures(verdicts[0], verdicts[1], judges[0].tie_margin),
        **_scores(judges, records, (before, after), verdicts),
        **_text_figures(before, after),
        **_blind(judges[0], config, records, baseline, before),
        **_blind(judges[0], config, records, tuned, after),
        "kl": kl_divergence(
            tuned,
            baseline,
            prompts,
            config.sampling,
            seed=config.seed,
            max_tokens=config.ppo.microbatch_tokens,
        ),
    }
    shown = _comparisons(config, records, root, (before, after), verdicts, judges[0].tie_margin)
    write_report(
        job.folder / "report.html",
        title=f"{config.name}: before and after",
        summary=summary,
        comparisons=shown,
        curves=_curves(job.files[1]),
        notes=[
            f"before: {job.files[0]}",
            f"after: {job.files[1]}",
            f"judge: {judges[0].name}; {len(records)} prompts of {path.name}",
        ],
    )
    return {**summary, "report": str(job.folder / "report.html")}


def _judges(job: Job, llava: Llava) -> list[Judge]:
    """The judge that decides first, then any other that can score."""
    judges: list[Judge] = [RuleJudge()] if job.config.evaluation.judge else []
    if job.scorer or job.config.reward.path:
        scorer = scorer_of(job, llava, share_trunk=True)
        judges.append(ScorerJudge(scorer, max_tokens=job.config.ppo.microbatch_tokens))
    if not judges:
        raise UsageError(
            "no judge is given",
            "reward.path",
            "set reward.path=RUN of `rlhf reward`, give --scorer=…, or evaluation.judge=rule-v1",
        )
    return judges


def _scores(
    judges: Sequence[Judge],
    records: Sequence[Record],
    both: tuple[Answers, Answers],
    verdicts: Sequence[Verdicts],
) -> dict[str, float]:
    """Mean score of each judge, before and after; the first one has given its scores already."""
    first = [verdict.scores for verdict in verdicts]
    scores = [first, *([judge.scores(records, x) for x in both] for judge in judges[1:])]
    return {
        f"{judge.name}_{answers.model}": _mean(found)
        for judge, pair in zip(judges, scores, strict=True)
        for answers, found in zip(both, pair, strict=True)
    }


def _mean(scores: Sequence[float]) -> float:
    """Of those there are."""
    found = [score for score in scores if not isnan(score)]
    return sum(found) / len(found) if found else nan


def _text_figures(before: Answers, after: Answers) -> dict[str, float]:
    """Mean length in words, and how many different answers there are."""
    lengths = {
        f"length_{answers.model}": sum(len(text.split()) for text in answers.texts)
        / len(answers.texts)
        for answers in (before, after)
    }
    return {
        **lengths,
        "distinct_answers": len(set(after.texts)),
        "distinct_answers_before": len(set(before.texts)),
        "rep4_after": text_statistics(after.texts)["text/rep4"],
    }


def _blind(
    judge: Judge, config: Config, records: Sequence[Record], llava: Llava, own: Answers
) -> dict[str, float]:
    """Accuracy when each prompt shows another picture; near chance if the model looks."""
    prompts = with_pictures(own.prompts, own.prompts.other_pictures(), llava.builder)
    name = f"{own.model}, another picture"
    other = answer(llava, name, prompts, config.sampling, seed=config.seed)
    right = judge.right(records, other.texts)
    return {} if right is None else {f"blind_accuracy_{own.model}": sum(right) / len(right)}


def _comparisons(
    config: Config,
    records: Sequence[PromptRecord],
    root: Path,
    answers: tuple[Answers, Answers],
    verdicts: Sequence[Verdicts],
    tie_margin: float,
) -> list[Comparison]:
    """The first prompts whose answers differ, with the verdict; equal answers fill up."""
    before, after = answers
    differs = [old != new for old, new in zip(before.texts, after.texts, strict=True)]
    order = sorted(range(len(records)), key=lambda row: not differs[row])
    results = outcomes(verdicts[0], verdicts[1], tie_margin)
    return [
        Comparison(
            picture=load_image(resolve_image(records[row].image_path, root)),
            instruction=records[row].instruction,
            answers=tuple(
                (each.model, each.texts[row], verdict.scores[row])
                for each, verdict in zip(answers, verdicts, strict=True)
            ),
            verdict=results[row],
        )
        for row in order[: config.evaluation.pictures]
    ]


def _curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The training curves of a run, when the model is one."""
    metrics = read_metrics(run) if (run / "metrics.jsonl").is_file() else {}
    return {name: metrics[name] for name in CURVES if name in metrics}
