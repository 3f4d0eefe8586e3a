"""`rlhf evaluate`: compare models on images that no training saw."""

from collections.abc import Sequence
from contextlib import suppress
from math import isnan
from pathlib import Path
from random import Random
from typing import Any

from rlhf.commands.job import Job
from rlhf.commands.model_setup import load_adapted, scorer_of
from rlhf.config.schema import Config
from rlhf.data.collate import Record, prompt_batch
from rlhf.data.images import load_image
from rlhf.data.input_files import input_file, read_prompts
from rlhf.data.records import (
    CandidatesRecord,
    PreferenceRecord,
    PromptRecord,
    read_records,
    resolve_image,
    write_records,
)
from rlhf.errors import UsageError
from rlhf.evaluation.judges import (
    Judge,
    JudgeOutputs,
    RuleJudge,
    ScorerJudge,
    comparison_metrics,
    pairwise_outcomes,
)
from rlhf.evaluation.model_comparison import (
    Comparison,
    ModelResult,
    instruction_kind,
    model_metrics,
    person_outputs,
    win_metrics,
    win_metrics_by_kind,
)
from rlhf.evaluation.model_report import ReportItem, write_model_report
from rlhf.evaluation.run_comparison import distinct_names
from rlhf.models.llava import Llava
from rlhf.storage.run_directory import json_text, run_directories
from rlhf.tracking.console import say, table
from rlhf.tracking.reader import read_metrics

CURVES = (
    "objective/scores",
    "objective/kl",
    "objective/rlhf_reward",
    "policy/entropy_avg",
    "val/explained_variance",
    "tokens/responses_len_mean",
)


def evaluate(job: Job) -> dict[str, Any]:
    """Compare models with the first of them; leave metrics.json and report.html in the run.

    Returns:
        Of two models, their win rate and metrics before and after; of more, or of people as only
        judges, the metrics by model and by kind of instruction; and the path of the report.
    """
    config = job.config
    if len(job.files) + bool(config.evaluation.best_of) < 2:
        fix = "rlhf evaluate FIRST OTHER…, or one model and evaluation.best_of=4"
        raise UsageError("evaluate compares two models or more", "rlhf evaluate", fix)
    records, root = read_prompts(config)
    records = records[: config.evaluation.limit or None]
    judgments = _judgments(config)
    entries, judges = _entries(job, records, root)
    pairs = [_verdicts(entry, entries[0], judgments, records) for entry in entries]
    margin = judges[0].tie_margin if judges and judgments is None else 0.0
    results = [pairwise_outcomes(*pair, margin) for pair in pairs]
    models = {
        entry.name: (win_metrics(outcomes) if n else {"win_rate": None})
        | model_metrics(entry, judges)
        for n, (entry, outcomes) in enumerate(zip(entries, results, strict=True))
    }
    if config.evaluation.judge == "person":
        _ask_people(job.run_dir / "blind.jsonl", root, entries, records, judgments, config.seed)
    _show(models)
    metrics = {"models": models, "kinds": win_metrics_by_kind(records, results[-1])}
    (job.run_dir / "metrics.json").write_text(json_text(metrics, indent=2) + "\n")
    _write_report(job, records, root, entries, [pair[1] for pair in pairs], results[-1], metrics)
    report = {"report": str(job.run_dir / "report.html")}
    if len(entries) > 2 or not judges:
        return metrics | report
    return comparison_metrics(*pairs[1], margin) | _before_and_after(entries, judges) | report


def _entries(
    job: Job, records: Sequence[PromptRecord], root: Path
) -> tuple[list[ModelResult], list[Judge]]:
    """Responses and judge outputs of every model, and the judges; models load one by one."""
    config = job.config
    names = distinct_names(job.files)
    baseline = load_adapted(config, str(job.files[0]))
    judges = _judges(job, baseline)
    prompts = prompt_batch(
        records, baseline.builder, root, max_tokens=config.data.max_prompt_tokens
    )
    max_tokens = config.ppo.microbatch_tokens
    comparison = Comparison(
        records, prompts, judges, baseline, config.sampling, config.seed, max_tokens
    )
    entries = [comparison.evaluate(names[0], baseline)]
    if n := config.evaluation.best_of:
        scorers = [judge for judge in judges if isinstance(judge, ScorerJudge)]
        if not scorers:
            where, fix = f"evaluation.best_of={n}", "set reward.path=RUN, or give --scorer=…"
            raise UsageError("best-of-n sampling needs a scorer", where, fix)
        entries.append(comparison.best_of(f"{names[0]}, best of {n}", scorers[0], n))
    for name, file in zip(names[1:], job.files[1:], strict=True):
        entries.append(comparison.evaluate(name, load_adapted(config, str(file))))
    return entries, judges


def _judgments(config: Config) -> list[PreferenceRecord] | None:
    """Preferences of people about an earlier run's blind.jsonl, if their file is named."""
    if not config.evaluation.judgments:
        return None
    path = input_file(config.evaluation.judgments, "evaluation.judgments")
    return read_records(path, PreferenceRecord)


def _verdicts(
    entry: ModelResult,
    first: ModelResult,
    judgments: Sequence[PreferenceRecord] | None,
    records: Sequence[Record],
) -> tuple[JudgeOutputs, JudgeOutputs]:
    """What the deciding judge (people, if there are judgments) says of the first and this model."""
    if judgments is not None or not entry.outputs:
        return person_outputs(judgments or [], records, first.texts, entry.texts)
    return first.outputs[0], entry.outputs[0]


def _ask_people(
    path: Path,
    root: Path,
    entries: Sequence[ModelResult],
    records: Sequence[PromptRecord],
    judgments: Sequence[PreferenceRecord] | None,
    seed: int,
) -> None:
    """Write the pairs without a judgment, shuffled, with sides at random to hide the models."""
    random, rows = Random(seed), []
    for entry in entries[1:]:
        outputs = person_outputs(judgments or [], records, entries[0].texts, entry.texts)[1]
        for record, old, new, score in zip(
            records, entries[0].texts, entry.texts, outputs.scores, strict=True
        ):
            if isnan(score) and old.strip() and new.strip():
                texts = random.sample([old, new], 2)
                rows.append(CandidatesRecord(record.image_path, record.instruction, texts))
    random.shuffle(rows)
    if rows:
        write_records(path, rows)
        call = f"rlhf annotate {path} data.root={root} annotate.output=judgments.jsonl"
        say(f"{len(rows)} pairs wait for a person: {call}")
        say("then the same call with evaluation.judgments=judgments.jsonl")


def _before_and_after(entries: Sequence[ModelResult], judges: Sequence[Judge]) -> dict[str, Any]:
    """Metrics of two models, named `…_before` and `…_after`."""
    by_side = {
        side: model_metrics(entry, judges)
        for side, entry in zip(("before", "after"), entries, strict=True)
    }
    named = {
        f"{judge.name}_{side}": metrics[f"score_{judge.name}"]
        for judge in judges
        for side, metrics in by_side.items()
    }
    named |= {f"length_{side}": metrics["words"] for side, metrics in by_side.items()}
    for side, metrics in by_side.items():
        if "blind_accuracy" in metrics:
            named[f"blind_accuracy_{side}"] = metrics["blind_accuracy"]
    after = by_side["after"]
    return named | {
        "distinct_answers": after["distinct"],
        "distinct_answers_before": by_side["before"]["distinct"],
        "rep4_after": after["rep4"],
        "kl": after["kl"],
    }


def _show(models: dict[str, dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for metrics in models.values() for name in metrics))
    rows = [
        (name, *("–" if metrics.get(key) is None else metrics[key] for metrics in models.values()))
        for name, key in ((key.replace("_", " "), key) for key in names)
    ]
    table("models", ("metric", *models), rows)


def _write_report(
    job: Job,
    records: Sequence[PromptRecord],
    root: Path,
    entries: Sequence[ModelResult],
    verdicts: Sequence[JudgeOutputs],
    results: Sequence[str],
    metrics: dict[str, Any],
) -> None:
    """Write report.html; prompts whose responses differ come first."""
    first, last = entries[0].texts, entries[-1].texts
    order = sorted(range(len(records)), key=lambda row: first[row] == last[row])
    items = [
        ReportItem(
            image=load_image(resolve_image(records[row].image_path, root)),
            instruction=records[row].instruction,
            kind=instruction_kind(records[row]),
            responses=[entry.texts[row] for entry in entries],
            scores=[verdict.scores[row] for verdict in verdicts],
            outcome=results[row],
        )
        for row in order[: job.config.evaluation.max_report_images]
    ]
    runs = {entry.name: _curves(file) for entry, file in _trained(entries, job.files)}
    means = {name: _first_score(row) for name, row in metrics["models"].items()}
    write_model_report(
        job.run_dir / "report.html",
        title=f"{job.config.name}: {len(entries)} models compared",
        notes=[
            *(f"{entry.name}: {file}" for entry, file in _trained(entries, job.files)),
            f"{len(records)} prompts of {job.config.data.prompts}; outcomes are those of "
            f"{entries[-1].name} against {entries[0].name}",
        ],
        models=metrics["models"],
        scores={name: score for name, score in means.items() if score is not None},
        kinds=metrics["kinds"],
        items=items,
        curves={
            metric: {name: curves[metric] for name, curves in runs.items() if metric in curves}
            for metric in CURVES
            if any(metric in curves for curves in runs.values())
        },
    )


def _trained(
    entries: Sequence[ModelResult], files: Sequence[Path]
) -> list[tuple[ModelResult, Path]]:
    """The results of models that were given by a path, with that path."""
    paths = dict(zip(distinct_names(files), files, strict=True))
    return [(entry, paths[entry.name]) for entry in entries if entry.name in paths]


def _first_score(metrics: dict[str, Any]) -> float | None:
    """Mean score by the first judge, which decides; None without one."""
    scores = (value for name, value in metrics.items() if name.startswith("score_"))
    return next(scores, None)


def _judges(job: Job, llava: Llava) -> list[Judge]:
    """The judges: the rule, if it is chosen, then the scorer; the first one decides."""
    rule = job.config.evaluation.judge == "rule-v1"
    judges: list[Judge] = [RuleJudge()] if rule else []
    if job.scorer or job.config.reward.path:
        scorer = scorer_of(job, llava, share_base_model=True)
        judges.append(ScorerJudge(scorer, max_tokens=job.config.ppo.microbatch_tokens))
    if not judges and job.config.evaluation.judge != "person":
        raise UsageError(
            "no judge is given",
            "reward.path",
            "set reward.path=RUN of `rlhf reward`, give --scorer=…, or evaluation.judge=rule-v1",
        )
    return judges


def _curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Training curves (step, value) by metric, if the model is a run with metrics.jsonl."""
    metrics: dict[str, list[tuple[int, float]]] = {}
    with suppress(StopIteration):
        directory = next(
            path for path in run_directories(run) if (path / "metrics.jsonl").is_file()
        )
        metrics = read_metrics(directory)
    return {name: metrics[name] for name in CURVES if name in metrics}
