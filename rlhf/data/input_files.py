"""Read a command's data files and check their images, without any model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from rlhf.config.schema import Config
from rlhf.data.image_listing import IMAGE_SUFFIXES, list_images
from rlhf.data.image_markers import marker_warning
from rlhf.data.images import load_image
from rlhf.data.jsonl import layout_fault
from rlhf.data.records import PromptRecord, Record, read_records, resolve_image
from rlhf.data.similar_paths import similar_file
from rlhf.errors import DataError, UsageError
from rlhf.history import transcript
from rlhf.tracking.console import say, track

T = TypeVar("T", bound=Record)


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
    file = Path(path)
    if file.is_dir():
        raise DataError("this is a folder, not a file", path, f"name a file as {option}")
    if not file.is_file():
        similar = similar_file(path, Path(file.anchor))
        what = "there is no such file" + (f"; {similar}" if similar else "")
        raise DataError(what, path, f"check {option}")
    try:
        fault = layout_fault(file)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", path) from error
    if fault:
        raise DataError(fault, path, f"write JSON Lines: one record a line, for {option}")
    return file


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
    root = data_root(config)
    if root and not directory.resolve().is_relative_to(root.resolve()):
        fix = "leave data.root empty: image paths are then relative to the folder"
        raise UsageError("the folder of images is not in data.root", str(directory), fix)
    root, recursive = root or directory, config.data.recursive
    records = directory_prompts(directory, root, config.instruction, recursive=recursive)
    skip = config.data.on_bad_image == "skip"
    return readable_records(records, directory, root, skip=skip), root


def directory_prompts(
    directory: Path, root: Path, instruction: str, *, recursive: bool
) -> list[PromptRecord]:
    """Return a prompt for each image of a folder; print what is left out.

    Args:
        directory: the folder.
        root: the directory that image paths start in; the folder or one above it.
        instruction: of every prompt.
        recursive: also the images of the folders inside it.

    Raises:
        DataError: there is no such folder, or it has no images.
    """
    if not directory.is_dir():
        raise DataError("there is no such folder", str(directory), "name a folder of images")
    listing = list_images(directory, recursive=recursive)
    if left_out := listing.message():
        say(f"left out of {directory}: {left_out}", "yellow")
    if not listing.images:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        what = "the folder has no images" + (f", but {left_out}" if left_out else "")
        raise DataError(what, str(directory), f"they end in {kinds}")
    inside = directory.resolve().relative_to(root.resolve())
    paths = [(inside / path.relative_to(directory)).as_posix() for path in listing.images]
    return [PromptRecord(path, instruction) for path in paths]


def data_root(config: Config) -> Path | None:
    """Return the directory that data.root names; None if it is empty.

    Raises:
        DataError: there is no such directory.
    """
    root = Path(config.data.root) if config.data.root else None
    if root and not root.is_dir():
        raise DataError("there is no such directory", str(root), "check data.root")
    return root


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
    root, skip = data_root(config) or path.parent, config.data.on_bad_image == "skip"
    return readable_records(read_records(path, kind), path, root, skip=skip), root


def readable_records(records: list[T], path: Path, root: Path, *, skip: bool) -> list[T]:
    """Return the records whose image decodes, and print how many do not.

    Args:
        records: of any kind.
        path: the file or folder that they come from, for messages.
        root: the directory that image paths start in.
        skip: leave out a record whose image does not decode.

    Raises:
        DataError: an image does not decode and `skip` is false, or none decodes.
    """
    if warning := marker_warning(transcript(x.history, x.instruction) for x in records):
        say(f"{path}: {warning}", "yellow")
    faults = _image_faults(records, path, root)
    if faults and not skip:
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
