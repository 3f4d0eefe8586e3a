"""What a reader of a comparison should know before believing it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf.data.records import PromptRecord
from rlhf.storage.run_directory import run_directories, stored_options

FILES = ("prompts", "preferences", "demonstrations")  # options of `data` that name what is learned


def cautions(
    models: Sequence[Path], records: Sequence[PromptRecord], root: Path, judge: str
) -> list[str]:
    """Return sentences about what makes a comparison look better than it is.

    Args:
        models: runs, or models that are no runs, of which nothing is known.
        records: the prompts that the models answered.
        root: the directory that their image paths start in.
        judge: run of the reward model that judges; empty: another judge.
    """
    runs = [config for path in models if (config := stored_options(path))]
    found = []
    if judge and any(_same(judge, (run.get("reward") or {}).get("path", "")) for run in runs):
        found.append(
            "The judge is the reward model that was optimised: it says how well PPO did, not "
            "whether the answers are better. Let a person judge, or a reward model of other pairs."
        )
    seen = {image for run in runs for image in _training_images(run)}
    shared = {record.image_path for record in records if _place(root, record.image_path) in seen}
    if shared:
        images = len({record.image_path for record in records})
        found.append(
            f"{len(shared)} of {images} images were trained on: hold images back that no "
            "training has seen."
        )
    return found


def _training_images(run: dict[str, Any]) -> Iterator[Path]:
    """Yield the images of the files that a run learned from, as far as they can be read."""
    data = run.get("data") or {}
    for name in FILES:
        path = Path(str(data.get(name) or ""))
        if not path.is_file():
            continue
        root = Path(str(data.get("root") or path.parent))
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if image := _image_of(line):
                    yield _place(root, image)


def _image_of(line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError:
        return ""
    return str(row.get("image_path", "")) if isinstance(row, dict) else ""


def _place(root: Path, image: str) -> Path:
    return (root / image).resolve()


def _same(one: str, other: str) -> bool:
    """Whether two paths name one run; a directory of runs stands for the newest in it."""
    if not one or not other:
        return False
    newest = [
        next(iter(run_directories(Path(path))), Path(path)).resolve() for path in (one, other)
    ]
    return newest[0] == newest[1]
