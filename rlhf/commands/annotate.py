"""`rlhf annotate`: a local page on which people rank responses, and their preference file."""

import os
import secrets
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from socket import getaddrinfo
from typing import Any

from PIL.Image import Image

from rlhf.annotation.event_log import (
    EventLog,
    Judgment,
    active_events,
    preference_records,
    read_events,
)
from rlhf.annotation.page import Page
from rlhf.annotation.pairs import candidate_pairs
from rlhf.annotation.queue import AnnotationQueue
from rlhf.annotation.served_images import ServedImages
from rlhf.commands.command_line import command_line
from rlhf.commands.job import Job
from rlhf.config.schema import AnnotateConfig, ModelConfig
from rlhf.data.input_files import input_file, read_with_images
from rlhf.data.records import CandidatesRecord, record_kind, write_records
from rlhf.errors import DataError, UsageError
from rlhf.storage.atomic import unwritable
from rlhf.tracking.console import say

DEFAULT_LOG = "judgments.jsonl"  # beside the candidates
COMPACT = "preferences.jsonl"  # proposed name of the preference file


def annotate(job: Job) -> dict[str, Any]:
    """Serve candidates for ranking until Ctrl-C, or write the preferences of a log.

    Returns:
        Counts of judgments and of skipped pairs, the log, and the preference file.
    """
    if len(job.files) != 1:
        raise UsageError(
            f"{len(job.files)} files are given",
            "rlhf annotate",
            "rlhf annotate CANDIDATES.jsonl, or LOG.jsonl annotate.output=PREFERENCES.jsonl",
        )
    path = input_file(str(job.files[0]), "FILE.jsonl")
    candidates = record_kind(path) is CandidatesRecord
    if not candidates and not job.config.annotate.output:
        fix = "give candidates to rank, or a log and annotate.output=PREFERENCES.jsonl"
        raise UsageError("the file holds no candidates", str(path), fix)
    log = Path(job.config.output or path.parent / DEFAULT_LOG) if candidates else path
    _check_output(job.config.annotate.output, log)
    if candidates:
        _collect_judgments(job, path, log)
    return _write_preferences(log, job.config.annotate.output)


def _check_output(output: str, log: Path) -> None:
    """Refuse a preference file that would overwrite the log of judgments."""
    if output and Path(output).resolve() == log.resolve():
        where, fix = f"annotate.output={output}", "choose a new name"
        raise UsageError(f"the preferences would overwrite {log}", where, fix)


def _collect_judgments(job: Job, path: Path, output: Path) -> None:
    """Serve the page for judgments until Ctrl-C; append them to a log."""
    _check_installed()
    options = job.config.annotate
    _check_host(options.host)
    records, root = read_with_images(job.config, path, CandidatesRecord)
    pairs = candidate_pairs(records)
    if not pairs:
        fix = "collect more responses, or raise sampling.temperature"
        raise DataError("no prompt has two different responses", str(path), fix)
    with closing(EventLog(output)) as log:
        queue = AnnotationQueue(pairs, log, overlap=options.overlap, lease=options.lease)
        count = sum(isinstance(event, Judgment) for event in active_events(log.events))
        say(f"{len(pairs)} pairs of {len(records)} prompts, {count} judgments so far in {output}")
        token, as_seen = _token(output), _as_seen(job.config.model)
        images = ServedImages((x.image_path for x in pairs.values()), root, token, as_seen)
        next_step = _next_step(output, options.output)
        _serve(options, Page(queue, images, token, options.annotator, next_step))


def _serve(options: AnnotateConfig, page: Page) -> None:
    from rlhf.annotation.server import application, serve

    token, hosts = page.token, [options.host, "localhost"]

    def ready(port: int) -> None:
        host = f"[{options.host}]" if ":" in options.host else options.host
        say(f"open http://{host}:{port}/#token={token}")
        say("Ctrl-C stops the page; a judgment is on disk as soon as the page says saved")

    serve(application(page, hosts), options.host, options.port, ready)


def _write_preferences(log: Path, output: str) -> dict[str, Any]:
    """Write the judgments of a log, without undone ones, as preferences if an output is named."""
    events = list(active_events(read_events(log) if log.is_file() else []))
    records = preference_records(events)
    summary: dict[str, Any] = {"judgments": len(records), "skipped": len(events) - len(records)}
    if output:
        write_records(Path(output), records)
        say(f"{len(records)} judgments in {output}")
    elif records:
        say(f"{_compact_command(log)} writes them for `rlhf reward`")
    return {**summary, "log": str(log), "preferences": output}


def _next_step(log: Path, output: str) -> str:
    """Return what the page says when all pairs are judged."""
    words = ["model.path=MODEL", f"data.preferences={output or COMPACT}"]
    reward = command_line("reward", words)
    compact = "" if output else f"{_compact_command(log)}\n"
    return f"Next, in the terminal: Ctrl-C, then\n{compact}{reward}"


def _compact_command(log: Path) -> str:
    return command_line("annotate", [log, f"annotate.output={COMPACT}"])


def _token(log: Path) -> str:
    """Return the secret in the page's URL, stored beside the log, readable by its owner only."""
    path = Path(f"{log}.token")
    try:
        with suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_urlsafe(24))
        token = path.read_text().strip()
    except OSError as error:
        raise unwritable(path, error) from error
    if len(token) < 24:
        raise DataError("the page's token is damaged", str(path), "remove this file")
    return token


def _check_host(host: str) -> None:
    """Refuse what stands for every address: the page answers only requests that name its own."""
    addresses = set[str]()
    with suppress(OSError, UnicodeError):  # it is no address, which is said when it is listened to
        addresses = {str(info[4][0]).partition("%")[0] for info in getaddrinfo(host or "::", None)}
    if any(ip_address(address).is_unspecified for address in addresses):
        fix = "name the address that people will type, such as 192.168.1.20"
        raise UsageError("this stands for every address", f"annotate.host={host}", fix)


def _check_installed() -> None:
    if not (find_spec("starlette") and find_spec("uvicorn")):
        fix = "pip install 'rlhf-llava[annotate]'"
        raise UsageError("the ranking page needs starlette and uvicorn", "rlhf annotate", fix)


def _as_seen(model: ModelConfig) -> Callable[[Image], Image | None] | None:
    """Return what shows an image as the model that is named sees it; None without a model."""
    if not model.path:
        return None
    from rlhf.models.encoding import load_encoding  # imports torch, which is slow
    from rlhf.models.locations import locate_model
    from rlhf.models.vision.seen_image import seen_image

    encoding = load_encoding(locate_model(model.path, model.base).base)
    return partial(seen_image, encoding.builder.processor.image_processor)
