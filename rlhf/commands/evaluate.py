"""`rlhf evaluate`: compare models on prompts with images not used in training."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rlhf.commands.command_line import command_line
from rlhf.commands.fitting import fitting_all, fitting_scorer
from rlhf.commands.job import Job
from rlhf.commands.model_setup import build_scorer, load_adapted
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
from rlhf.evaluation.evaluate import metrics_by_model, outcomes_of
from rlhf.evaluation.judges import (
    Judge,
    JudgeOutputs,
    RuleJudge,
    ScorerJudge,
    comparison_metrics,
)
from rlhf.evaluation.model_comparison import (
    Comparison,
    ModelResult,
    instruction_kind,
    model_metrics,
    person_outputs,
    unjudged_pairs,
    win_metrics_by_kind,
)
from rlhf.evaluation.model_report import ReportItem, write_model_report
from rlhf.evaluation.run_names import model_names
from rlhf.models.llava import Llava
from rlhf.parallel.world import ALONE
from rlhf.storage.run_directory import json_text, run_directories
from rlhf.tracking.console import say, table
from rlhf.tracking.reader import read_metrics

CURVES = (
    "objective/scores",
    "objective/kl",
    "objective/rlhf_reward",
    "policy/entropy_avg",
    "val/explained_variance",
    "val/explained_variance_pooled",
    "tokens/responses_len_mean",
)


def evaluate(job: Job) -> dict[str, Any]:
    """Compare models with the first of them; write metrics.json and report.html to the run.

    Returns:
        For two models, the win rate and the metrics before and after; for more models, or when
        only people judge, the metrics by model and by kind of instruction. Also the report's path.
    """
    config, world = job.config, job.world or ALONE
    world.first(partial(_check_options, job))
    records, root = read_prompts(config)
    records = fitting_all(config, job.files, records[: config.evaluation.limit or None], root)
    judgments = _judgments(config)
    records, results, judges = _evaluate_models(job, records, root)
    output_pairs = [_deciding_outputs(result, results[0], judgments, records) for result in results]
    margin = judges[0].tie_margin if judges and judgments is None else 0.0
    outcomes = outcomes_of(output_pairs, margin)
    models = metrics_by_model(results, judges, outcomes)
    if config.evaluation.judge == "person":
        pairs = unjudged_pairs(judgments or [], records, results, config.seed)
        world.first(partial(_write_pairs, job.run_dir / "blind.jsonl", pairs, root))
    _print_models(models)
    metrics = {"models": models, "kinds": win_metrics_by_kind(records, outcomes[-1])}
    outputs = [model_outputs for _, model_outputs in output_pairs]
    world.first(
        partial(_write_results, job, records, root, results, outputs, outcomes[-1], metrics)
    )
    report = {"report": str(job.run_dir / "report.html")}
    if len(results) > 2 or not judges:
        return metrics | report
    return (
        comparison_metrics(*output_pairs[1], margin) | _before_and_after(results, judges) | report
    )


def _check_options(job: Job) -> None:
    """Refuse a comparison that lacks a second model or a judge, before a model loads."""
    options = job.config.evaluation
    has_scorer = bool(job.scorer or job.config.reward.path)
    if len(job.files) + bool(options.best_of) < 2:
        fix = "rlhf evaluate FIRST OTHER…, or one model and evaluation.best_of=4"
        raise UsageError("evaluate compares two models or more", "rlhf evaluate", fix)
    if not options.judge and not has_scorer:
        fix = "set reward.path=RUN of `rlhf reward`, give --scorer=…, or evaluation.judge=rule-v1"
        raise UsageError("no judge is named", "reward.path", fix)
    if options.best_of and not has_scorer:
        where, fix = f"evaluation.best_of={options.best_of}", "set reward.path=RUN, or --scorer=…"
        raise UsageError("best-of-n sampling needs a scorer", where, fix)


def _evaluate_models(
    job: Job, records: list[PromptRecord], root: Path
) -> tuple[list[PromptRecord], list[ModelResult], list[Judge]]:
    """Let every model respond and judge its responses; return prompts, results and judges."""
    config, world = job.config, job.world or ALONE
    names = model_names(job.files)
    baseline = load_adapted(config, str(job.files[0]), world)
    judges = _judges(job, baseline)
    scorers = [judge for judge in judges if isinstance(judge, ScorerJudge)]
    for judge in scorers:
        records = fitting_scorer(config, judge.scorer, baseline.builder, records, root)
    limit = config.data.max_prompt_tokens
    prompts = prompt_batch(records, baseline.builder, root, max_tokens=limit)
    max_tokens = config.ppo.microbatch_tokens
    world.same("data.prompts", lambda: repr(records))
    comparison = Comparison(
        records, prompts, judges, baseline, config.sampling, config.seed, max_tokens, world
    )
    results = [comparison.evaluate(names[0], baseline)]
    if n := config.evaluation.best_of:
        results.append(comparison.best_of(f"{names[0]}, best of {n}", scorers[0], n))
    for name, file in zip(names[1:], job.files[1:], strict=True):
        results.append(comparison.evaluate(name, load_adapted(config, str(file), world)))
    return records, results, judges


def _judgments(config: Config) -> list[PreferenceRecord] | None:
    """Read people's preferences about an earlier run's blind.jsonl; None if no file is named."""
    if not config.evaluation.judgments:
        return None
    path = input_file(config.evaluation.judgments, "evaluation.judgments")
    return read_records(path, PreferenceRecord)


def _deciding_outputs(
    result: ModelResult,
    first: ModelResult,
    judgments: Sequence[PreferenceRecord] | None,
    records: Sequence[Record],
) -> tuple[JudgeOutputs, JudgeOutputs]:
    """Return the outputs of the deciding judge, maybe people, for the first and for this model."""
    if judgments is not None or not result.outputs:
        return person_outputs(judgments or [], records, first.texts, result.texts)
    return first.outputs[0], result.outputs[0]


def _write_pairs(path: Path, pairs: Sequence[CandidatesRecord], root: Path) -> None:
    """Write the pairs that nobody judged, and say how people judge them."""
    if pairs:
        write_records(path, pairs)
        words = [path, f"data.root={root}", "annotate.output=judgments.jsonl"]
        say(f"{len(pairs)} pairs wait for a person: {command_line('annotate', words)}")
        say("then run this command again with evaluation.judgments=judgments.jsonl")


def _before_and_after(results: Sequence[ModelResult], judges: Sequence[Judge]) -> dict[str, Any]:
    """Metrics of two models, named `…_before` and `…_after`."""
    by_side = {
        side: model_metrics(result, judges)
        for side, result in zip(("before", "after"), results, strict=True)
    }
    scores = {
        f"{judge.name}_{side}": metrics[f"score_{judge.name}"]
        for judge in judges
        for side, metrics in by_side.items()
    }
    lengths = {f"length_{side}": metrics["words"] for side, metrics in by_side.items()}
    blind = {
        f"blind_accuracy_{side}": metrics["blind_accuracy"]
        for side, metrics in by_side.items()
        if "blind_accuracy" in metrics
    }
    after = by_side["after"]
    return {
        **scores,
        **lengths,
        **blind,
        "distinct_responses": after["distinct"],
        "distinct_responses_before": by_side["before"]["distinct"],
        "rep4_after": after["rep4"],
        "kl": after["kl"],
    }


def _print_models(models: dict[str, dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for metrics in models.values() for name in metrics))
    rows = [
        (name, *("–" if metrics.get(key) is None else metrics[key] for metrics in models.values()))
        for name, key in ((key.replace("_", " "), key) for key in names)
    ]
    table("models", ("metric", *models), rows)


def _write_results(
    job: Job,
    records: Sequence[PromptRecord],
    root: Path,
    results: Sequence[ModelResult],
    outputs: Sequence[JudgeOutputs],
    outcomes: Sequence[str],
    metrics: dict[str, Any],
) -> None:
    """Write metrics.json and report.html, in which prompts whose responses differ come first."""
    (job.run_dir / "metrics.json").write_text(json_text(metrics, indent=2) + "\n")
    first, last = results[0].texts, results[-1].texts
    order = sorted(range(len(records)), key=lambda row: first[row] == last[row])
    items = [
        ReportItem(
            image=load_image(resolve_image(records[row].image_path, root)),
            instruction=records[row].instruction,
            history=records[row].history,
            kind=instruction_kind(records[row]),
            responses=[result.texts[row] for result in results],
            scores=[output.scores[row] for output in outputs],
            outcome=outcomes[row],
        )
        for row in order[: job.config.evaluation.max_report_images]
    ]
    curves = {
        result.name: _curves(path) for result, path in _results_with_paths(results, job.files)
    }
    mean_scores = {name: _first_score(row) for name, row in metrics["models"].items()}
    write_model_report(
        job.run_dir / "report.html",
        title=f"{job.config.name}: {len(results)} models compared",
        notes=[
            *(f"{x.name}: {path}" for x, path in _results_with_paths(results, job.files)),
            f"{len(records)} prompts of {job.config.data.prompts}; outcomes are those of "
            f"{results[-1].name} against {results[0].name}",
        ],
        models=metrics["models"],
        scores={name: score for name, score in mean_scores.items() if score is not None},
        kinds=metrics["kinds"],
        items=items,
        curves={
            metric: {name: lines[metric] for name, lines in curves.items() if metric in lines}
            for metric in CURVES
            if any(metric in lines for lines in curves.values())
        },
    )


def _results_with_paths(
    results: Sequence[ModelResult], files: Sequence[Path]
) -> list[tuple[ModelResult, Path]]:
    """Pair each result with the path of its model; leave out best-of-n, which has none."""
    paths = dict(zip(model_names(files), files, strict=True))
    return [(result, paths[result.name]) for result in results if result.name in paths]


def _first_score(metrics: dict[str, Any]) -> float | None:
    """Return the mean score by the first judge, which decides; None if there is no judge."""
    scores = (value for name, value in metrics.items() if name.startswith("score_"))
    return next(scores, None)


def _judges(job: Job, llava: Llava) -> list[Judge]:
    """Build the judges: the rule if it is chosen, then the scorer; the first one decides."""
    rule = job.config.evaluation.judge == "rule-v1"
    judges: list[Judge] = [RuleJudge()] if rule else []
    if job.scorer or job.config.reward.path:
        scorer = build_scorer(job, llava, share_base_model=True, world=job.world or ALONE)
        judges.append(ScorerJudge(scorer, max_tokens=job.config.ppo.microbatch_tokens))
    return judges


def _curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Read training curves, metric to (step, value); empty if the model is no run with metrics."""
    metrics: dict[str, list[tuple[int, float]]] = {}
    with suppress(StopIteration):
        directory = next(
            path for path in run_directories(run) if (path / "metrics.jsonl").is_file()
        )
        metrics = read_metrics(directory)
    return {name: metrics[name] for name in CURVES if name in metrics}
