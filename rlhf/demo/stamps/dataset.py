"""Make a data set of Debian's `tuxpaint-stamps-default`: 785 real images with captions.

The package's licence and credits stay beside what is written.
"""

import gzip
import hashlib
import io
import random
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.images import load_image
from rlhf.data.records import DemonstrationRecord, PromptRecord, Record, write_records
from rlhf.demo.stamps.package import DOCS, PACKAGE, STAMPS, read_package, unreadable_package
from rlhf.errors import DataError, ResourceError, UsageError
from rlhf.storage.atomic import temporary_path

INSTRUCTIONS = (
    "What is this?",
    "What does the picture show?",
    "Describe the picture.",
    "What can you see?",
    "Give the picture a caption.",
)


@dataclass(frozen=True)
class Stamp:
    """An image of the package with its English caption.

    Attributes:
        path: below the directory of the images, e.g. `animals/birds/crow.png`.
        caption: one line; the package's text, with its spaces and full stop put right.
        digest: SHA-256 of the image's bytes.
    """

    path: str
    caption: str
    digest: str

    @property
    def category(self) -> str:
        """First directory inside the package, such as animals or food."""
        return self.path.partition("/")[0]


def write_stamps(
    source: Path, output: Path, *, seed: int, held_out: float, only: Collection[str] = ()
) -> dict[str, Any]:
    """Write images, prompts, captions and licence to `output`, all or nothing.

    `images/…` holds the PNG files as they are; `prompts.jsonl` one question an image,
    `captions.jsonl` the same with the caption as response, `held_out_prompts.jsonl` questions about
    the images in neither; `licence/` and `SOURCE.txt` say whose they are.

    Args:
        source: a .deb, the root of an unpacked package, or its `stamps` directory.
        output: a directory that does not exist yet.
        seed: of the questions and of which images are held out, by content.
        held_out: share of the images, in [0, 1).
        only: the stamps wanted, such as `animals/birds/crow`; empty: all.

    Returns:
        Counts of images, categories, prompts, held-out prompts, and of skipped stamps by reason.

    Raises:
        UsageError: `output` exists.
        DataError: there is no package at `source`, it is damaged, or its licence is missing.
        ResourceError: `output` cannot be written.
    """
    if output.exists():
        raise UsageError("the output exists already", str(output), "name a new directory: output=…")
    files = read_package(source)
    part = temporary_path(output)
    try:
        _write_licence(part, files, source)
        stamps, skipped = _write_images(part / "pictures", files, only)
        if not stamps:
            raise unreadable_package("no image with a caption is in it", source)
        metrics = _write_files(part, stamps, seed, held_out)
        part.rename(output)
    except OSError as error:
        fix = "Choose a directory that can be created and has space."
        raise ResourceError(f"Cannot write: {error.strerror}.", str(output), fix) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {**metrics, "skipped": dict(skipped)}


def _write_images(
    directory: Path, files: dict[str, bytes], only: Collection[str]
) -> tuple[list[Stamp], Counter[str]]:
    """The images with captions, and how many stamps were skipped for which reason."""
    stamps, skipped = [], Counter[str]()
    for stem in sorted({name.rpartition(".")[0] for name in files if name.startswith(STAMPS)}):
        if only and stem.removeprefix(STAMPS) not in only:
            continue
        path, image = stem.removeprefix(STAMPS) + ".png", files.get(f"{stem}.png")
        caption = _caption(files.get(f"{stem}.txt", b""))
        if image is None:
            skipped["no PNG"] += 1
        elif not caption:
            skipped["no English caption"] += 1
        elif not _write_image(directory / path, image):
            skipped["unreadable PNG"] += 1
        else:
            stamps.append(Stamp(path, caption, hashlib.sha256(image).hexdigest()))
    return stamps, skipped


def _write_image(path: Path, data: bytes) -> bool:
    """Write an image, if it is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    try:
        load_image(path)
    except DataError:
        path.unlink()
        return False
    return True


def _caption(text: bytes) -> str:
    """The first line, in which the package has the English text; "" when there is none."""
    try:
        line = text.decode("utf-8-sig").partition("\n")[0]
    except UnicodeDecodeError:
        return ""
    caption = " ".join(line.split()).lstrip("–- ")
    if not caption.isprintable() or re.match(r"\w+\.utf8=", caption):
        return ""
    return caption + "." * bool(re.search(r"\w$", caption))


def _write_files(directory: Path, stamps: list[Stamp], seed: int, share: float) -> dict[str, Any]:
    """The JSON Lines files, and their metrics."""
    prompts: dict[bool, list[PromptRecord]] = {False: [], True: []}
    for stamp in stamps:
        held = random.Random(f"held out/{seed}/{stamp.digest}").random() < share
        instruction = random.Random(f"question/{seed}/{stamp.path}").choice(INSTRUCTIONS)
        meta = {"category": stamp.category, "caption": stamp.caption}
        name = "stamps/" + stamp.path.removesuffix(".png")
        prompts[held].append(PromptRecord(f"pictures/{stamp.path}", instruction, name, meta))
    captions = [
        DemonstrationRecord(p.image_path, p.instruction, p.meta["caption"], p.id, p.meta)
        for p in prompts[False]
    ]
    files: dict[str, Sequence[Record]] = {"prompts": prompts[False], "captions": captions}
    for file, records in {**files, "held_out_prompts": prompts[True]}.items():
        if records:
            write_records(directory / f"{file}.jsonl", records)
    return {
        "images": len(stamps),
        "categories": len({stamp.category for stamp in stamps}),
        "prompts": len(prompts[False]),
        "held_out_prompts": len(prompts[True]),
    }


def _write_licence(directory: Path, files: dict[str, bytes], source: Path) -> None:
    """What the package says of its licence and authors, and where the images come from."""
    documents = {name.removeprefix(DOCS): d for name, d in files.items() if name.startswith(DOCS)}
    if "copyright" not in documents:
        raise unreadable_package(
            "its copyright file, which has to stay with the images, is gone", source
        )
    (directory / "licence").mkdir(parents=True)
    for name, data in documents.items():
        (directory / "licence" / name).write_bytes(data)
    version = _version(documents.get("changelog.Debian.gz", b""))
    (directory / "SOURCE.txt").write_text(_SOURCE.format(package=PACKAGE, version=version))


def _version(changelog: bytes) -> str:
    """The version in the first line of a Debian changelog."""
    with (
        suppress(OSError, EOFError, zlib.error),
        gzip.GzipFile(fileobj=io.BytesIO(changelog)) as file,
    ):
        if found := re.search(rb"\(([\w.+:~-]+)\)", file.read(200)):
            return found[1].decode("ascii")
    return "(version unknown)"


_SOURCE = """\
Images and captions: Debian package {package} {version}
https://packages.debian.org/{package}, made from Tux Paint Stamps, https://tuxpaint.org/

Licence: GNU General Public License, version 2 or later; the terms are at
https://www.gnu.org/licenses/old-licenses/gpl-2.0.html
Copyright: licence/copyright. Credits of the authors: licence/changelog.gz.
Pass the images and texts on under this licence only, with these files.

Changed: only PNG images with an English caption are kept, byte for byte. Of each caption the
first line is kept, its spaces put right, a leading dash removed, a missing full stop added.
The questions are not from the package.
"""
