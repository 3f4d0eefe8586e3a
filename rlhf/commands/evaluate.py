"""`rlhf evaluate`: compare models on prompts with images not used in training."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlhf.commands.command_line import command_line
from rlhf.commands.evaluation_report import write_report
from rlhf.commands.fitting import fitting_all, fitting_scorer
from rlhf.commands.job import Job
from rlhf.commands.model_setup import build_scorer, load_adapted
from rlhf.config.schema import Config
from rlhf.data.collate import Record, prompt_batch
from rlhf.data.input_files import input_file, read_prompts
from rlhf.data.records import (
    CandidatesRecord,
    PreferenceRecord,
    PromptRecord,
    read_records,
    write_records,
)
from rlhf.errors import UsageError
from rlhf.evaluation.evaluate import metrics_by_model, outcomes_of
from rlhf.evaluation.evaluation_prompts import evaluation_prompts
from rlhf.evaluation.html import metric_table
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
    model_metrics,
    person_outputs,
    unjudged_pairs,
    win_metrics_by_kind,
)
from rlhf.evaluation.run_names import model_names
from rlhf.models.llava import Llava
from rlhf.parallel.world import ALONE
from rlhf.tracking.console import say, table


def evaluate(job: Job) -> dict[str, Any]:
    """Compare models with the first of them; write metrics.json and report.html to the run.

    Returns:
        For two models, the win rate and the metrics before and after; for more models, or when
        only people judge, the metrics by model and by kind of instruction. Also the report's path.
    """
    config, world = job.config, job.world or ALONE
    world.first(partial(_check_options, job))
    records, root = read_prompts(config)
    records = evaluation_prompts(job.files, records, root, config.data.evaluation_fraction)
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
    world.first(partial(write_report, job, records, root, results, outputs, outcomes[-1], metrics))
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
    """Print the table of the report, a column for each model."""
    sheet = metric_table("metric", models)
    columns, *rows = zip(sheet.columns, *sheet.rows, strict=True)
    table("models", columns, rows)


def _judges(job: Job, llava: Llava) -> list[Judge]:
    """Build the judges: the rule if it is chosen, then the scorer; the first one decides."""
    rule = job.config.evaluation.judge == "rule-v1"
    judges: list[Judge] = [RuleJudge()] if rule else []
    if job.scorer or job.config.reward.path:
        scorer = build_scorer(job, llava, share_base_model=True, world=job.world or ALONE)
        judges.append(ScorerJudge(scorer, max_tokens=job.config.ppo.microbatch_tokens))
    return judges
