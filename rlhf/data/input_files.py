"""Read a command's data files and check their images, without any model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from rlhf.config.schema import Config
from rlhf.data.images import load_image
from rlhf.data.records import PromptRecord, Record, read_records, resolve_image
from rlhf.errors import DataError, UsageError
from rlhf.tracking.console import say, track

T = TypeVar("T", bound=Record)
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def input_file(path: str, option: str) -> Path:
    """Return the path of the file that an option names.

    Args:
        path: the option's value.
        option: the option's name, for the error message.

    Raises:
        UsageError: the option is empty.
        DataError: there is no such file.
    """
    if not path:
        raise UsageError("no input file is named", option, f"set {option}=FILE.jsonl")
    if not Path(path).is_file():
        raise DataError("there is no such file", path, f"check {option}")
    return Path(path)


def read_prompts(config: Config) -> tuple[list[PromptRecord], Path]:
    """Read the prompts of data.prompts, a file or a folder of images.

    For a folder, each image becomes a prompt with the option `instruction`.

    Returns:
        The prompts, and the directory that their image paths start in.

    Raises:
        UsageError: the option is empty.
        DataError: there is no such file, no image, or a bad record or image.
    """
    directory = Path(config.data.prompts)
    if not config.data.prompts or not directory.is_dir():
        return read_with_images(
            config, input_file(config.data.prompts, "data.prompts"), PromptRecord
        )
    records = [PromptRecord(path.name, config.instruction) for path in images_in(directory)]
    if not records:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError("the folder has no images", str(directory), f"they end in {kinds}")
    return _with_images(config, records, directory, directory), directory


def images_in(directory: Path) -> list[Path]:
    """List the image files of a directory, sorted by name."""
    return sorted(path for path in directory.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def read_with_images(config: Config, path: Path, kind: type[T]) -> tuple[list[T], Path]:
    """Read the records of a file, without those whose image does not decode.

    Args:
        config: its data.root and data.on_bad_image apply.
        path: the file.
        kind: the class of its records.

    Returns:
        The records, and the directory that their image paths start in.

    Raises:
        DataError: a bad record, or a bad image while data.on_bad_image is `error`.
    """
    root = Path(config.data.root) if config.data.root else path.parent
    return _with_images(config, read_records(path, kind), path, root), root


def _with_images(config: Config, records: list[T], path: Path, root: Path) -> list[T]:
    """Drop the records whose image does not decode; `path` is the file they come from."""
    faults = _image_faults(records, path, root)
    if faults and config.data.on_bad_image == "error":
        raise next(iter(faults.values()))
    usable = [record for record in records if record.image_path not in faults]
    if faults:
        say(f"{path.name}: {len(records) - len(usable)} records dropped, bad image")
    if not usable:
        raise DataError("no usable record is left", str(path), "check the file and its images")
    return usable


def _image_faults(records: Sequence[Record], path: Path, root: Path) -> dict[str, DataError]:
    """Decode every distinct image once; return the error of each bad one by its path."""
    first_record = {record.image_path: n for n, record in reversed(list(enumerate(records, 1)))}
    faults = {}
    with track(f"checking the images of {path.name}", len(first_record)) as progress:
        for image_path, number in first_record.items():
            try:
                load_image(resolve_image(image_path, root))
            except DataError as error:
                where = f"{path}: record {number}: {image_path}"
                faults[image_path] = DataError(error.what, where, error.fix)
            progress.advance()
    return faults
