"""Which images trained the models of a comparison, and which were held out, by content."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.data.evaluation_split import evaluation_fraction, is_held_out
from rlhf.data.image_listing import list_images
from rlhf.data.images import image_digest
from rlhf.data.jsonl import json_object, read_lines
from rlhf.data.records import PromptRecord, resolve_image
from rlhf.errors import DataError
from rlhf.storage.run_directory import stored_options
from rlhf.tracking.activity import working

Options = dict[str, Any]  # of a run, nested by section

FILES = ("preferences", "demonstrations")  # options of `data` of which all is learned
_PARTS = ("adapter", "model", "reward")  # directories of a run that may be named for it


class SeenImages(NamedTuple):
    """The image paths of prompts, by what training did with their content.

    Attributes:
        trained: a training saw the image.
        held_out: a training left it out, and none saw it.
    """

    trained: set[str]
    held_out: set[str]


def seen_images(models: Sequence[Path], records: Sequence[PromptRecord], root: Path) -> SeenImages:
    """Find the images of prompts in what models, and all that they began from, were trained on.

    A training image is read only if an image of the prompts has as many bytes.

    Args:
        models: runs, or models that are no runs, of which nothing is known.
        records: the prompts.
        root: the directory that their image paths start in.
    """
    paths = {name: resolve_image(name, root) for name in {x.image_path for x in records}}
    sizes, digest = {path.stat().st_size for path in paths.values()}, cache(image_digest)
    trained, held_out = set[str](), set[str]()
    with working("looking for images that were trained on"):
        for path, fraction in (pair for run in training_runs(models) for pair in _images(run)):
            with suppress(OSError, ValueError, DataError):  # it is not there any more
                if path.stat().st_size in sizes:
                    side = held_out if is_held_out(digest(path), fraction) else trained
                    side.add(digest(path))
        found = {name: digest(path) for name, path in paths.items()} if trained | held_out else {}
    return SeenImages(
        {name for name, content in found.items() if content in trained},
        {name for name, content in found.items() if content in held_out - trained},
    )


def training_runs(models: Sequence[Path]) -> list[Options]:
    """Return the options of the runs that made models, and the models and rewards of these runs.

    Args:
        models: runs, or models that are no runs.
    """
    runs, waiting = dict[Path, Options](), list(models)
    while waiting:
        if (path := waiting.pop()) not in runs:
            runs[path] = _options_of(path)
            names = (option(runs[path], section, "path") for section in ("model", "reward"))
            waiting += [Path(name) for name in names if name]
    return [options for options in runs.values() if options]


def option(run: Options, section: str, name: str) -> str:
    """Return a stored option as a text; empty where it is not set.

    Args:
        run: options of the run, nested by section.
        section: of the option.
        name: of the option in its section.
    """
    values = run.get(section)
    return str(values.get(name) or "") if isinstance(values, dict) else ""


def _options_of(path: Path) -> Options:
    places = [path, path.parent] if path.name in _PARTS else [path]
    return next((options for place in places if (options := stored_options(place))), {})


def _images(run: Options) -> Iterator[tuple[Path, float]]:
    """Yield the images that a run names, each with the share that is held out of its file."""
    if prompts := option(run, "data", "prompts"):
        set_to = run["data"].get("evaluation_fraction", 0.0)  # 0: a run from before there was one
        fraction = evaluation_fraction(set_to, prompts)
        yield from ((image, fraction) for image in _listed(run, "prompts"))
    for name in FILES:
        yield from ((image, 0.0) for image in _listed(run, name))


def _listed(run: Options, name: str) -> Iterator[Path]:
    """Yield the images of a file of records, as far as it can be read, or of a folder."""
    path = Path(named) if (named := option(run, "data", name)) else None
    if path and path.is_dir():
        yield from list_images(path, recursive=bool(option(run, "data", "recursive"))).images
    elif path and path.is_file():
        root = Path(option(run, "data", "root") or path.parent)
        with suppress(OSError):
            yield from (root / image for _, line in read_lines(path) if (image := _image_of(line)))


def _image_of(line: bytes) -> str:
    """Return the image path in a line of JSON; empty where there is none."""
    try:
        row = json_object(line)
    except DataError:
        return ""
    return str(row.get("image_path", ""))
