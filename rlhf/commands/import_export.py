"""`rlhf import` and `rlhf export`: exchange data and models with other tools."""

from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.data.exporters import export_label_studio, export_trl
from rlhf.data.importers.datasets import DATASETS, Kind
from rlhf.data.importers.detection import detect_dataset, telling_columns
from rlhf.data.importers.importer import import_dataset
from rlhf.data.input_files import read_with_images
from rlhf.data.records import CandidatesRecord, PreferenceRecord, record_kind
from rlhf.errors import DataError, UsageError
from rlhf.tracking.console import say, table


def import_records(job: Job) -> dict[str, Any]:
    """Turn files of a public dataset into records and images.

    The first word may name the dataset; without it, or as `auto`, it is told from the first file.

    Returns:
        The source, counts of records, labels, images and skipped rows, and the output directory.

    Raises:
        UsageError: no file is named, or the source holds another kind of records.
        DataError: no row is usable.
    """
    source, files = _source_and_files(job)
    root = Path(job.config.data.root) if job.config.data.root else None
    output = _output_path(job, "DIRECTORY")
    imported = import_dataset(
        source,
        files,
        output,
        root=root,
        seed=job.config.seed,
        label_encoding=job.config.data.label_encoding,
    )
    kind = DATASETS[source].kind
    labels = {name: imported.labels[name] for name in ("response_a", "response_b", "tie")}
    counts = {"records": imported.records, **(labels if kind == "preferences" else {})}
    if imported.with_history:
        counts["with_earlier_turns"] = imported.with_history
    counts |= {"images": imported.images, "image_markers_removed": imported.image_markers}
    skipped = dict(imported.skipped.most_common())
    _print_counts(f"imported {kind}", counts, skipped)
    for line in (*imported.problems, *imported.notes):
        say(line)
    return {"source": source, "kind": kind, **counts, "skipped": skipped, "output": str(output)}


def _source_and_files(job: Job) -> tuple[str, list[Path]]:
    """Return the dataset's name, told from the first file where no word names it, and the files."""
    first, *files = job.files or [Path("auto")]
    source, kind = str(first), job.config.kind or None
    if source not in (*DATASETS, "auto"):
        if not first.exists() and (first.suffix or not files):
            fix = f"name a file, alone or after its source ({', '.join(DATASETS)})"
            raise DataError("there is no such file", source, fix)
        source, files = ("auto", [*job.files]) if first.exists() else (source, files)
    if not files:
        known = f"SOURCE is {', '.join(DATASETS)}; without it the file is recognized"
        usage = "rlhf import [SOURCE] FILE… output=DIRECTORY"
        raise UsageError("a file is needed", usage, known)
    source = _recognize(files, kind) if source == "auto" else source
    if source in DATASETS and kind not in (None, DATASETS[source].kind):
        what = f"{source} holds {DATASETS[source].kind}, not {kind}"
        raise UsageError(what, f"kind={kind}", "leave the source out, or kind")
    return source, files


def _recognize(files: list[Path], kind: Kind | None) -> str:
    """Tell the dataset from the first file, and say what it was taken for."""
    source = detect_dataset(files[0], kind)
    columns = ", ".join(telling_columns(source, files[0]))
    named = f"{source} ({DATASETS[source].kind})"
    say(f"{files[0]} is taken for {named} because of its columns {columns}")
    return source


def export_records(job: Job) -> dict[str, Any]:
    """Write preferences or candidates in another tool's format, or merge a run into a LLaVA.

    Returns:
        Counts of written and skipped records and the output; for a merge: base model, adapter,
        dtype and output.
    """
    if job.config.export.merge:
        from rlhf.commands.merge import merge  # imports torch, which takes seconds

        return merge(job)
    format_, *files = [str(path) for path in job.files] or [""]
    if format_ not in ("trl", "label_studio") or len(files) != 1:
        usage = "rlhf export trl|label_studio FILE.jsonl output=FILE"
        fix = f"{usage}, or rlhf export RUN export.merge=true"
        raise UsageError("a format and one file are needed", "rlhf export", fix)
    path, output = Path(files[0]), _output_path(job, "FILE")
    if format_ == "trl":
        pairs, root = read_with_images(job.config, path, PreferenceRecord)
        written, skipped = export_trl(pairs, root, output)
    elif record_kind(path) is CandidatesRecord:
        candidates, _ = read_with_images(job.config, path, CandidatesRecord)
        written, skipped = export_label_studio(candidates, output)
    else:
        pairs, _ = read_with_images(job.config, path, PreferenceRecord)
        written, skipped = export_label_studio(pairs, output)
    _print_counts("exported", {"written": written}, skipped)
    return {"written": written, "skipped": dict(skipped), "output": str(output)}


def _output_path(job: Job, placeholder: str) -> Path:
    if not job.config.output:
        raise UsageError("no output is named", "output", f"set output={placeholder}")
    return Path(job.config.output)


def _print_counts(title: str, counts: dict[str, int], skipped: dict[str, int]) -> None:
    rows = [*counts.items(), *((f"skipped: {reason}", n) for reason, n in skipped.items())]
    table(title, ("what", "count"), rows)
