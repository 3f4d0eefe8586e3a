"""`rlhf generate`: responses of models to an instruction about images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.commands.model_setup import load_adapted
from rlhf.config.schema import Config
from rlhf.data.collate import prompt_batch
from rlhf.data.images import load_image
from rlhf.data.input_files import SUFFIXES, images_in, read_prompts
from rlhf.data.records import PromptRecord
from rlhf.errors import DataError, UsageError
from rlhf.evaluation.judges import generate_responses
from rlhf.tracking.console import say, table

_USAGE = "rlhf generate MODEL… IMAGE|FOLDER… instruction='…', or MODEL… data.prompts=FILE.jsonl"


def generate(job: Job) -> dict[str, Any]:
    """Print responses to an instruction about images, or to a prompts file, of several models.

    Returns:
        The responses, each with its image and instruction.
    """
    config = job.config
    images = [path for path in job.files if _is_image(path)]
    models = [path for path in job.files if path not in images]
    if not models:
        raise UsageError("no model is given", "rlhf generate", _USAGE)
    if images:
        paths, root = [x.resolve() for word in images for x in _readable(word)], Path("/")
        records = [PromptRecord(str(path), config.instruction) for path in paths]
    else:
        records, root = read_prompts(config)
    texts = [_texts(config, model, records, root) for model in models]
    rows = [
        (record.image_path, record.instruction, *responses)
        for record, *responses in zip(records, *texts, strict=True)
    ]
    names = ["answer"] if len(models) == 1 else [str(model) for model in models]
    cells = [(Path(row[0]).name, *row[1:]) for row in rows]
    table("answers", ("image", "instruction", *names), cells)
    return {"responses": [_metrics(models, row) for row in rows]}


def _is_image(word: Path) -> bool:
    """Whether a word names an image, or a folder of images that is no model."""
    if not word.is_dir():
        return word.suffix.lower() in SUFFIXES
    return not (word / "config.json").exists() and bool(images_in(word))


def _readable(word: Path) -> list[Path]:
    """The image, or the readable ones of a folder; the unreadable ones are printed.

    Raises:
        DataError: the image cannot be read, or none of the folder can.
    """
    if not word.is_dir():
        load_image(word)
        return [word]
    readable = []
    for path in images_in(word):
        try:
            load_image(path)
            readable.append(path)
        except DataError as error:
            say(f"left out: {error.where}: {error.what}")
    if not readable:
        raise DataError("no image of the folder can be read", str(word), "convert them")
    return readable


def _texts(config: Config, model: Path, records: Sequence[PromptRecord], root: Path) -> list[str]:
    """Responses of a model, which is freed before the next one loads."""
    llava = load_adapted(config, str(model))
    prompts = prompt_batch(records, llava.builder, root, max_tokens=config.data.max_prompt_tokens)
    return generate_responses(llava, model.name, prompts, config.sampling, seed=config.seed).texts


def _metrics(models: Sequence[Path], row: Sequence[str]) -> dict[str, Any]:
    image, instruction, *texts = row
    prompt = {"image_path": image, "instruction": instruction}
    if len(models) == 1:
        return {**prompt, "response": texts[0]}
    return {**prompt, "responses": dict(zip(map(str, models), texts, strict=True))}
