"""What `rlhf reward` leaves in its run: metrics.json, TensorBoard and report.html."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.evaluation.prompt_changes import EvaluatedPairs
from rlhf.evaluation.prompt_tests import PROMPT_TESTS, PromptTestMetrics, prompt_test_metrics
from rlhf.evaluation.reward_metrics import RewardMetrics, accuracy_spread, reward_metrics
from rlhf.evaluation.reward_report import write_reward_report
from rlhf.evaluation.reward_scoring import most_confident_pairs
from rlhf.evaluation.reward_tables import (
    CALIBRATION_COLUMNS,
    METRIC_COLUMNS,
    calibration_rows,
    metric_rows,
    prompt_test_rows,
)
from rlhf.storage.atomic import replace_text
from rlhf.storage.run_directory import json_text
from rlhf.tracking.console import say, table
from rlhf.tracking.reader import read_metrics
from rlhf.tracking.writer import MetricsWriter

REPORTED_PAIRS = 6  # most confident wrong pairs in the report, and as many right ones
CURVES = {
    "loss": {"training": "reward/loss", "held out": "reward/validation_loss"},
    "accuracy": {"training": "reward/accuracy", "held out": "reward/validation_accuracy"},
}


def write_report(
    job: Job, evaluated: EvaluatedPairs, folds: Sequence[RewardMetrics], root: Path, step: int
) -> dict[str, Any]:
    """Write metrics.json, TensorBoard and report.html, and print the metrics.

    Args:
        job: the call of the command.
        evaluated: pairs that the reward model was not trained on, scored.
        folds: metrics of each fold of a cross-validation.
        root: the directory that their image paths start in.
        step: optimizer step of the weights that scored them.

    Returns:
        Metrics for the summary.
    """
    seed = job.config.seed
    metrics = reward_metrics(evaluated.scored, seed=seed)
    tests = [prompt_test_metrics(x, evaluated.tests.get(x), seed=seed) for x in PROMPT_TESTS]
    rows = [*metric_rows(metrics), *(row for test in tests for row in prompt_test_rows(test))]
    table("evaluated pairs", METRIC_COLUMNS, rows)
    for test in tests:
        say(f"{test.test.title.lower()}: {test.verdict}")
    scalars = metrics.scalars() | {k: x for test in tests for k, x in test.scalars().items()}
    _write_json(job, metrics, tests, folds)
    with MetricsWriter(job.run_dir) as writer:
        writer.scalars(scalars, step)
        margins = evaluated.scored.margins
        writer.histograms({"reward/margins": margins[~margins.isnan()]}, step)
        writer.table("metrics", METRIC_COLUMNS, rows, step)
        writer.table("calibration", CALIBRATION_COLUMNS, calibration_rows(metrics), step)
    _write_page(job, evaluated, metrics, tests, folds, root)
    verdicts = {test.test.key: test.verdict for test in tests}
    return _summary(metrics, folds) | scalars | verdicts


def _write_json(
    job: Job,
    metrics: RewardMetrics,
    tests: Sequence[PromptTestMetrics],
    folds: Sequence[RewardMetrics],
) -> None:
    report = {"metrics": asdict(metrics)} | {test.test.key: test.as_dict() for test in tests}
    if folds:
        report["folds"] = {str(n): asdict(fold) for n, fold in enumerate(folds, 1)}
    replace_text(job.run_dir / "metrics.json", json_text(report, indent=2) + "\n")


def _write_page(
    job: Job,
    evaluated: EvaluatedPairs,
    metrics: RewardMetrics,
    tests: Sequence[PromptTestMetrics],
    folds: Sequence[RewardMetrics],
    root: Path,
) -> None:
    records, scored = evaluated.records, evaluated.scored
    wrong, right = most_confident_pairs(records, scored, root, REPORTED_PAIRS)
    logged = read_metrics(job.run_dir)
    write_reward_report(
        job.run_dir / "report.html",
        title=f"{job.config.name}: the reward model",
        notes=_notes(job),
        metrics=metrics,
        tests=tests,
        mistakes=wrong,
        right=right,
        folds=folds,
        curves={
            name: {label: logged[key] for label, key in lines.items() if key in logged}
            for name, lines in CURVES.items()
        },
    )


def _notes(job: Job) -> list[str]:
    """Return what the report is of: model, pairs, seed and day."""
    config = job.config
    day = datetime.now(UTC).date().isoformat()
    kind = f"{config.reward.kind}, reward.train={config.reward.train}"
    return [
        f"model {config.model.path} ({kind})",
        f"pairs {config.data.preferences}; seed {config.seed}; {day}",
    ]


def _summary(metrics: RewardMetrics, folds: Sequence[RewardMetrics]) -> dict[str, Any]:
    """Return accuracy with its interval, that of each kind of pair, and the spread of the folds."""
    summary = {
        "reward_model_accuracy": metrics.accuracy.value,
        "accuracy_low": metrics.accuracy.low,
        "accuracy_high": metrics.accuracy.high,
        **{f"accuracy_{kind.name}": kind.value for kind in metrics.by_kind if kind.name},
    }
    if folds:
        spread = accuracy_spread(folds)
        summary |= {"fold_accuracy_mean": spread.mean, "fold_accuracy_std": spread.std}
    return summary
