"""What `rlhf evaluate` leaves in its run: metrics.json and report.html."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.data.images import load_image
from rlhf.data.records import PromptRecord, resolve_image
from rlhf.evaluation.cautions import cautions
from rlhf.evaluation.judges import JudgeOutputs
from rlhf.evaluation.model_comparison import ModelResult, instruction_kind
from rlhf.evaluation.model_report import ReportItem, write_model_report
from rlhf.evaluation.run_names import model_names
from rlhf.storage.atomic import replace_text
from rlhf.storage.run_directory import json_text, run_directories
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


def write_report(
    job: Job,
    records: Sequence[PromptRecord],
    root: Path,
    results: Sequence[ModelResult],
    outputs: Sequence[JudgeOutputs],
    outcomes: Sequence[str],
    metrics: dict[str, Any],
) -> None:
    """Write metrics.json and report.html, in which prompts whose responses differ come first.

    Args:
        job: the call of the command.
        records: the prompts.
        root: the directory that their image paths start in.
        results: of each model; all are compared with the first.
        outputs: of the deciding judge, for each model.
        outcomes: of each prompt, of the last model against the first.
        metrics: by model and by kind of instruction.
    """
    replace_text(job.run_dir / "metrics.json", json_text(metrics, indent=2) + "\n")
    paths = dict(zip(model_names(job.files), job.files, strict=True))  # without best-of-n
    curves = {name: _curves(path) for name, path in paths.items()}
    mean_scores = {name: _first_score(row) for name, row in metrics["models"].items()}
    write_model_report(
        job.run_dir / "report.html",
        title=f"{job.config.name}: {len(results)} models compared",
        notes=[
            *(f"{name}: {path}" for name, path in paths.items()),
            f"{len(records)} prompts of {job.config.data.prompts}; outcomes are those of "
            f"{results[-1].name} against {results[0].name}",
        ],
        cautions=cautions(job.files, records, root, job.config.reward.path),
        models=metrics["models"],
        scores={name: score for name, score in mean_scores.items() if score is not None},
        kinds=metrics["kinds"],
        items=_items(job, records, root, results, outputs, outcomes),
        curves={
            metric: {name: lines[metric] for name, lines in curves.items() if metric in lines}
            for metric in CURVES
            if any(len(lines.get(metric, ())) > 1 for lines in curves.values())
        },
        seed=job.config.seed,
    )


def _items(
    job: Job,
    records: Sequence[PromptRecord],
    root: Path,
    results: Sequence[ModelResult],
    outputs: Sequence[JudgeOutputs],
    outcomes: Sequence[str],
) -> list[ReportItem]:
    first, last = results[0].texts, results[-1].texts
    order = sorted(range(len(records)), key=lambda row: first[row] == last[row])
    return [
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


def _first_score(metrics: dict[str, Any]) -> float | None:
    """Return the mean score by the first judge, which decides; None if there is no judge."""
    scores = (value for name, value in metrics.items() if name.startswith("score_"))
    return next(scores, None)


def _curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Read training curves, metric to (step, value); empty if the model is no run with metrics."""
    metrics: dict[str, list[tuple[int, float]]] = {}
    with suppress(StopIteration):
        directory = next(
            path for path in run_directories(run) if (path / "metrics.jsonl").is_file()
        )
        metrics = read_metrics(directory)
    return {name: metrics[name] for name in CURVES if name in metrics}
