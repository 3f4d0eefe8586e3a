"""Make records of rows in Python, whose images are paths, PIL images or the bytes of files."""

import atexit
import io
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from rlhf.data.images import load_image, upright_rgb
from rlhf.data.importers.image_directory import ImageDirectory
from rlhf.data.records import PreferenceRecord, Record, record_from_fields
from rlhf.errors import DataError

ROOT = Path("/")  # the image paths of the records are absolute
PAIR_FIELDS = ("chosen", "rejected")


class RowReader:
    """Makes records of rows.

    An image that is no file is written to one, once for each content and named by it: everything
    behind the records reads files, hashes them and names prompts by them.

    Args:
        kind: the class of the records.
        image_dir: where images that are no files are written; None: a temporary directory that is
            deleted when Python ends.
    """

    def __init__(self, kind: type[Record], image_dir: Path | None) -> None:
        self._kind, self._readable = kind, set[Path]()
        self._images = ImageDirectory(image_dir or _temporary_directory())

    def record(self, row: Mapping[str, Any], where: str) -> Record:
        """Make a record of a row with `image` and the texts of the record.

        Args:
            row: values by field; None counts as absent.
            where: names the row in messages.

        Raises:
            DataError: a field is missing, unknown or empty, or the image cannot be read.
        """
        fields = {name: value for name, value in row.items() if value is not None}
        try:
            self._set_image(fields)
            if self._kind is PreferenceRecord and {*PAIR_FIELDS} <= fields.keys():
                fields["response_a"], fields["response_b"] = map(fields.pop, PAIR_FIELDS)
                fields["preference"] = "response_a"
            return record_from_fields(fields, self._kind)
        except (DataError, ValueError) as error:
            what, place, fix = getattr(error, "what", str(error)), getattr(error, "where", ""), ""
            fix = getattr(error, "fix", "") or "correct the row"
            raise DataError(what, f"{where}: {place}" if place else where, fix) from error

    def _set_image(self, fields: dict[str, Any]) -> None:
        """Replace the field `image` by `image_path`."""
        if "image" not in fields:
            raise DataError("the field is missing", "image")
        source = _unwrapped(fields.pop("image"))
        if isinstance(source, Image.Image):
            source = _png(source)
        if isinstance(source, bytes):
            name = self._images.add(source, ROOT)
            fields["image_path"] = str((self._images.directory.parent / name).absolute())
            # The path may be another one tomorrow, and must not name the prompt.
            text = fields.get("history", ""), fields.get("instruction", "")
            fields.setdefault("id", f"{Path(name).name} {text}")
        elif isinstance(source, str | Path):
            fields["image_path"] = str(self._checked(Path(source).expanduser().absolute()))
        else:
            fix = "give a path, a PIL image, or the bytes of an image file"
            raise DataError(f"this is no image: {type(source).__name__}", "image", fix)

    def _checked(self, path: Path) -> Path:
        if path not in self._readable:
            load_image(path)
            self._readable.add(path)
        return path


def _unwrapped(source: Any) -> Any:
    """Take the image out of a list of one, and the bytes or path out of a dataset's mapping."""
    if isinstance(source, list | tuple) and len(source) == 1:
        source = source[0]
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    return source


def _png(image: Image.Image) -> bytes:
    """Encode an image without loss, as a model sees it."""
    buffer = io.BytesIO()
    upright_rgb(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@cache
def _temporary_directory() -> Path:
    """Return this process's directory of images, deleted when Python ends."""
    directory = tempfile.mkdtemp(prefix="rlhf-images-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)
