"""Starting points: data that is drawn, and models that are unpacked from an archive.

The archives lie beside the results, so that runs made later, and elsewhere, begin as the others
did: trained again on another processor, models have other weights. Without an archive models are
trained, and archived.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path

from baselines.learning_task import StartingPoint

ARCHIVES = Path(__file__).parents[1] / "results" / "starts"
SCORERS = Path(__file__).with_name("scorers.py")
NOTE = "models.json"
TEXTS = (".json", ".yaml", ".md")  # of files that may name the directory


@dataclass(frozen=True)
class Models:
    """What is trained for a task, as paths from the directory of its starting point.

    Attributes:
        model: the supervised LLaVA.
        reward: run of the reward model; empty: there is none.
        preferences: the pairs that it was trained on; empty: there are none.
    """

    model: str
    reward: str = ""
    preferences: str = ""

    def files(self, directory: Path) -> list[Path]:
        """Return the files that are read of them, in order."""
        parts = (self.model, self.reward and f"{self.reward}/reward", self.preferences)
        found = [directory / part for part in parts if part]
        inner = [file for path in found if path.is_dir() for file in path.rglob("*")]
        return sorted(path for path in (*found, *inner) if path.is_file())


def starting_point(
    directory: Path, train: Callable[[Path], Models], draw: Callable[[Path], None]
) -> StartingPoint:
    """Return the starting point in a directory, made by the first call.

    Args:
        directory: its name is the task's, in ARCHIVES too.
        train: trains the models there, whatever an interrupted call left; they are then archived.
        draw: writes the data to a directory.
    """
    archive, note, data = (
        ARCHIVES / f"{directory.name}.tar.xz",
        directory / NOTE,
        directory / "data",
    )
    if not note.exists():
        directory.mkdir(parents=True, exist_ok=True)
        if not archive.exists():
            pack(archive, directory, train(directory))
        draw(data)
        with tarfile.open(archive) as packed:
            packed.extractall(directory, filter="data")
    models = {k: v and str(directory / v) for k, v in json.loads(note.read_text()).items()}
    return StartingPoint(**models, data=str(data))


def pack(archive: Path, directory: Path, models: Models) -> None:
    """Write models to an archive; their texts no longer name the directory."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    contents = [(path, path.read_bytes()) for path in models.files(directory)]
    note = (directory / NOTE, json.dumps(asdict(models), indent=2).encode() + b"\n")
    with tarfile.open(archive, "w:xz") as packed:
        for path, content in (*contents, note):
            if path.suffix in TEXTS:
                content = content.replace(f"{directory}/".encode(), b"")
            entry = tarfile.TarInfo(str(path.relative_to(directory)))
            entry.size = len(content)
            packed.addfile(entry, BytesIO(content))


def fingerprint(start: StartingPoint) -> str:
    """Return a short name of the weights of the model and of the reward model."""
    digest = hashlib.sha256()
    for directory in (start.model, start.reward and f"{start.reward}/reward"):
        for path in sorted(Path(directory).rglob("*.safetensors")) if directory else ():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def judged(start: StartingPoint) -> StartingPoint:
    """Return a starting point whose responses are judged by `rule-v1`."""
    return replace(start, judges={"accuracy": f"{SCORERS}:response_right"})


def described(start: StartingPoint) -> StartingPoint:
    """Return a starting point whose responses are scored and judged as descriptions."""
    judges = {"accuracy": f"{SCORERS}:things_right", "whole": f"{SCORERS}:description_right"}
    return replace(start, scorer=f"{SCORERS}:things_score", judges=judges)
