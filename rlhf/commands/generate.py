"""`rlhf generate`: print the responses of models to an instruction about images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.commands.fitting import fitting_all
from rlhf.commands.job import Job
from rlhf.commands.model_setup import load_adapted
from rlhf.config.schema import Config
from rlhf.data.collate import prompt_batch
from rlhf.data.image_listing import IMAGE_SUFFIXES, list_images
from rlhf.data.image_markers import marker_warning
from rlhf.data.images import load_image
from rlhf.data.input_files import read_prompts
from rlhf.data.records import PromptRecord
from rlhf.errors import DataError, UsageError
from rlhf.evaluation.judges import generate_responses
from rlhf.history import transcript
from rlhf.tracking.console import say, table

_USAGE = "rlhf generate MODEL… IMAGE|FOLDER… instruction='…', or MODEL… data.prompts=FILE.jsonl"


def generate(job: Job) -> dict[str, Any]:
    """Print responses to an instruction about images, or to a prompts file, of several models.

    Returns:
        The responses, each with its image and instruction.
    """
    config = job.config
    recursive = config.data.recursive
    images = [path for path in job.files if _is_image(path, recursive)]
    models = [path for path in job.files if path not in images]
    if not models:
        raise UsageError("no model is named", "rlhf generate", _USAGE)
    if images:
        paths = [x.resolve() for path in images for x in _readable_images(path, recursive)]
        records, root = [PromptRecord(str(x), config.instruction) for x in paths], Path("/")
        if warning := marker_warning([config.instruction]):
            say(warning, "yellow")
    else:
        records, root = read_prompts(config)
    records = fitting_all(config, models, records, root)
    texts = [_texts(config, model, records, root) for model in models]
    rows = [
        (record.image_path, transcript(record.history, record.instruction), *responses)
        for record, *responses in zip(records, *texts, strict=True)
    ]
    names = ["response"] if len(models) == 1 else [str(model) for model in models]
    cells = [(Path(row[0]).name, *row[1:]) for row in rows]
    table("responses", ("image", "instruction", *names), cells)
    return {"responses": [_responses_of_row(models, row) for row in rows]}


def _is_image(path: Path, recursive: bool) -> bool:
    """Whether a path is a file, or a folder of images and not a model directory."""
    if not path.is_dir():
        return path.is_file() or path.suffix.lower() in IMAGE_SUFFIXES
    return not (path / "config.json").exists() and list_images(path, recursive=recursive).has_images


def _readable_images(path: Path, recursive: bool) -> list[Path]:
    """Return the image, or the readable images of a folder; print which are left out.

    Raises:
        DataError: the image cannot be read, or no image of the folder can.
    """
    if not path.is_dir():
        load_image(path)
        return [path]
    listing, readable = list_images(path, recursive=recursive), []
    if left_out := listing.message():
        say(f"left out of {path}: {left_out}", "yellow")
    for image in listing.images:
        try:
            load_image(image)
            readable.append(image)
        except DataError as error:
            say(f"skipped: {error.where}: {error.what}")
    if not readable:
        raise DataError("no image of the folder can be read", str(path), "convert them")
    return readable


def _texts(config: Config, model: Path, records: Sequence[PromptRecord], root: Path) -> list[str]:
    """Generate the responses of a model, which is freed before the next one loads."""
    llava = load_adapted(config, str(model))
    prompts = prompt_batch(records, llava.builder, root, max_tokens=config.data.max_prompt_tokens)
    return generate_responses(llava, model.name, prompts, config.sampling, seed=config.seed).texts


def _responses_of_row(models: Sequence[Path], row: Sequence[str]) -> dict[str, Any]:
    image_path, instruction, *texts = row
    prompt = {"image_path": image_path, "instruction": instruction}
    if len(models) == 1:
        return {**prompt, "response": texts[0]}
    return {**prompt, "responses": dict(zip(map(str, models), texts, strict=True))}
