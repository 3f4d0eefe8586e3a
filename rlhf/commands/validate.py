"""`rlhf validate`: check files of records."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.config.schema import Config
from rlhf.data.input_files import data_root
from rlhf.data.jsonl import count_lines
from rlhf.data.records import Record
from rlhf.data.validation.repair import check_output, rejected_path, repaired_file
from rlhf.data.validation.validate import RecordCheck, ValidationReport, validate_files
from rlhf.errors import DataError, UsageError
from rlhf.tracking.console import say, table, track

MAX_PROBLEMS = 20  # printed


def validate(job: Job) -> dict[str, Any]:
    """Check files of records, and write the usable rows to `validate.fix_output`.

    Returns:
        Rows, usable rows, labels and problems by file.

    Raises:
        DataError: a row is unusable, or a file empty or unreadable.
    """
    config, files = job.config, job.files
    if not files:
        raise UsageError("no file is named", "rlhf validate", "rlhf validate FILE.jsonl …")
    root = data_root(config)
    output = Path(config.validate.fix_output) if config.validate.fix_output else None
    if output:
        check_output(output, files, root)
    lines = sum(map(count_lines, files))
    with (
        repaired_file(output) if output else nullcontext() as write_row,
        track("lines checked", lines) as progress,
    ):
        report = validate_files(
            files,
            root=root,
            check_images=config.validate.check_images,
            check_record=_token_check(config),
            max_tokens=config.data.max_prompt_tokens,
            on_line=write_row,
            on_progress=progress.advance,
        )
    _print_report(report, output)
    return report.as_dict()


def _token_check(config: Config) -> RecordCheck | None:
    """Build a check that counts tokens as `model.path` reads them; None without a model."""
    if not config.model.path:
        return None
    from rlhf.commands.fitting import token_limits  # imports torch, which is slow
    from rlhf.models.encoding import load_encoding
    from rlhf.models.locations import locate_model

    encoding = load_encoding(locate_model(config.model.path, config.model.base).base)
    limits = token_limits(config, encoding)

    def check(record: Record, root: Path) -> str:
        try:
            problem = limits.problem(record, encoding.builder, root)
        except DataError as error:
            problem = error
        return problem.what if problem else ""

    return check


def _print_report(report: ValidationReport, output: Path | None) -> None:
    """Print the table and the first problems.

    Raises:
        DataError: a row or a file is unusable.
    """
    columns, *rows = report.as_table()
    cells = [["–" if cell is None else cell for cell in row] for row in rows]
    table("records", columns, cells)
    for people in report.people:
        _print_agreement(people)
    for problem in report.problems[:MAX_PROBLEMS]:
        say(str(problem))
    more = report.error_count + report.warning_count - MAX_PROBLEMS
    if more > 0:
        say(f"… and {more} more problems")
    if output:
        say(f"usable rows: {output}; the others: {rejected_path(output)}")
    if not report.ok:
        raise _unusable_error(report, output)


def _print_agreement(people: dict[str, Any]) -> None:
    """Print who judged a file, and how much they agree."""
    if people["annotators"]:
        table(f"annotators of {people['file']}", ("who", "pairs"), people["annotators"].items())
    if people["judged_by_several"]:
        rows: list[tuple[Any, ...]] = [
            (" and ".join(pair["annotators"]), pair["pairs"], _number(pair["kappa"]))
            for pair in people["kappa"]
            if pair["pairs"]
        ]
        everyone = people["judged_by_several"], _number(people["alpha"])
        rows.append(("all (Krippendorff's alpha)", *everyone))
        table(
            "agreement (1 is perfect, 0 is chance)",
            ("who", "pairs in common", "Cohen's kappa"),
            rows,
        )
    if people["left_interval"]:
        low, high = people["left_interval"]
        say(f"the answer shown left won {people['left_share']:.1%} ({low:.1%} to {high:.1%})")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _unusable_error(report: ValidationReport, output: Path | None) -> DataError:
    rows = sum(row["records"] - row["usable"] for row in report.rows)
    files = report.error_count - rows  # problems of a whole file belong to no row
    counts = {"unusable rows": rows, "files empty or unreadable": files}
    summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    fix = f"correct them; the first {MAX_PROBLEMS} problems are printed above"
    if output:
        summary += f"; the usable ones are in {output}"
        fix = f"train on {output}, and correct what {rejected_path(output)} lists"
    return DataError(summary, report.errors[0].where, fix)
